"""Command line of `experiments.run`: checks overrides, runs the request, prints errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from hydra.core.config_loader import ConfigLoader

from experiments.config.catalog import ConfigCatalog, config_loader, hydra_arguments
from experiments.config.instantiate import TARGET
from experiments.console import BrokenPipeConsole, exit_on_error
from experiments.sweep.grid import keys_in_sweep
from experiments.sweep.interrupts import Interrupted, interruptible
from experiments.sweep.overrides import Argument, parse_arguments
from experiments.sweep.worker.forkserver import start_server
from fanin.errors import ConfigError

HYDRAS = re.compile(r"[+~]*hydra([./@=]|$)")  # Hydra's own settings
ENGINE = re.compile(r"[+~]*hydra(/(sweeper|launcher)\b|[@=]|$)")


def run_command(
    loader: ConfigLoader,
    config_name: str,
    overrides: Sequence[str],
    hydra_overrides: Sequence[str] = (),
) -> int:
    """Run the cell or grid that overrides ask for; return the exit status."""
    try:
        with (
            exit_on_error(interrupted="Interrupted before anything ran.", by=Interrupted),
            interruptible(),
        ):
            space = compose_catalog(loader, config_name, tuple(hydra_overrides))
            arguments = parse_arguments(loader, overrides)
            if _will_fork(space, arguments):
                start_server()
            # These load torch, which takes seconds, as it does in the server meanwhile.
            from experiments.sweep.launch import launch
            from experiments.sweep.request import parse_request

            return launch(space, parse_request(space, arguments), BrokenPipeConsole())
    except SystemExit as ended:  # while planning; a launcher that runs cells has its own answer
        return int(ended.code or 0)


def _will_fork(space: ConfigCatalog, arguments: Sequence[Argument]) -> bool:
    """Return True if the command probably runs cells in workers (if not, a process is wasted)."""
    given = {argument.key: argument.values[0] for argument in arguments}
    runner = given.get("runner", space.defaults["runner"])
    return runner == "local" and given.get("sweep.mode") != "plan"


def check_argv(config_name: str) -> None:
    """Check the process's command line, and end the process where it can't be meant.

    Help and completion pass; what is left in `sys.argv` is what Hydra can take.
    """
    asked = hydra_arguments()
    if asked.help or asked.hydra_help or asked.shell_completion:
        return
    with exit_on_error():
        if asked.multirun and (asked.cfg or asked.info):
            raise ConfigError("--cfg and --info show one cell: leave out -m")
        if asked.config_path:
            raise ConfigError(
                "--config-path would leave out conf/: add your own options with --config-dir"
            )
        loader = config_loader(asked.config_dir)
        name = asked.config_name or config_name
        checked = check_command(loader, name, asked.overrides, asked.multirun)
    renamed = dict(zip(asked.overrides, checked, strict=True))
    sys.argv[1:] = [renamed.get(word, word) for word in sys.argv[1:]]


def check_command(
    loader: ConfigLoader, config_name: str, overrides: Sequence[str], multirun: bool
) -> list[str]:
    """Check overrides before Hydra sees them, and put `++` before those that set keys.

    Hydra would refuse `init.layers.conv1.gain=2` (no such key yet), run one default cell for a
    sweep without `-m`, and know nothing of nearest choices.

    Raises
    ------
    ConfigError
        An override can't be meant as it stands.
    """
    ours = [text for text in overrides if not HYDRAS.match(text)]
    theirs = tuple(text for text in overrides if HYDRAS.match(text))
    for text in theirs:
        if "submitit" in text:
            raise ConfigError(
                f"{text}: say runner=slurm instead, which packs many cells into a job and finds "
                "jobs again; runner.slurm.partition=NAME and the like are in conf/runner/slurm.yaml"
            )
        if ENGINE.match(text):
            raise ConfigError(
                f"{text}: Hydra's parts can't be exchanged; runner= says where cells run"
            )
    space = compose_catalog(loader, config_name, theirs)
    arguments = parse_arguments(loader, ours)
    for argument in arguments:
        if not multirun and (argument.swept or argument.key == "sweep"):
            raise ConfigError(
                f"{argument.text}: a grid needs -m: python -m experiments.run -m {argument.text}"
            )
    _check_keys(space, arguments)
    keys = {argument.text for argument in arguments if not argument.is_group}
    return [f"++{text.lstrip('+')}" if text in keys else text for text in overrides]


def _check_keys(space: ConfigCatalog, arguments: Sequence[Argument]) -> None:
    """Check that every key exists for every option chosen for its group.

    Where a named sweep chooses, its cells are checked one by one when they are made.
    """
    chosen = {a.key: a.values for a in arguments if a.is_group}
    sweep = chosen.get("sweep", (space.defaults.get("sweep"),))[-1]
    by_sweep = keys_in_sweep(space.node("sweep", sweep)) if sweep is not None else set()
    elsewhere = {a.key for a in arguments if a.key.endswith(f".{TARGET}")}
    for argument in arguments:
        group = argument.key.partition(".")[0]
        if argument.is_group:
            for option in argument.values:
                space.node(argument.key, option)
        elif f"{group}.{TARGET}" in elsewhere:
            space.check_key(group, {})  # what other keys there are is that target's to judge
        elif group in chosen or group not in by_sweep:
            for option in chosen.get(group, (space.defaults.get(group),)):
                space.check_key(argument.key, {group: option})


def compose_catalog(
    loader: ConfigLoader, config_name: str, hydra_overrides: tuple[str, ...]
) -> ConfigCatalog:
    """Return the options, composed once a process however often they are asked for.

    Hydra makes a loader of its own besides the one that checks the command line; what both look
    through is the same.
    """
    paths = [element.path or "" for element in loader.get_search_path().get_path()]
    places = tuple(path.removeprefix("file://") for path in paths)
    # What Hydra adds to the overrides by itself.
    asked = tuple(text for text in hydra_overrides if not text.startswith("hydra.mode="))
    return _composed(_Source(places, config_name, asked, loader))


@dataclass(frozen=True)
class _Source:
    places: tuple[str, ...]
    config_name: str
    hydra_overrides: tuple[str, ...]
    loader: ConfigLoader = field(compare=False)


@cache
def _composed(source: _Source) -> ConfigCatalog:
    return ConfigCatalog(source.loader, source.config_name, source.hydra_overrides)
