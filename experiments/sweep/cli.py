"""Command line of `fanin run`: checks overrides, runs the request, prints errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import hydra
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from experiments.config.catalog import ConfigCatalog, config_loader, hydra_arguments
from experiments.config.groups import CONF
from experiments.config.instantiate import TARGET
from experiments.console import BrokenPipeConsole, exit_on_error
from experiments.gc_pause import without_gc
from experiments.sweep.finished import request_digest, show_if_finished
from experiments.sweep.grid import keys_in_sweep
from experiments.sweep.interrupts import Interrupted, interruptible
from experiments.sweep.overrides import Argument, parse_arguments
from experiments.sweep.request import parse_request
from fanin.commands import command_line
from fanin.errors import ConfigError

CONFIG_NAME = "config"
HYDRA_OVERRIDE = re.compile(r"[+~]*hydra([./@=]|$)")
HYDRA_PLUGIN = re.compile(r"[+~]*hydra(/(sweeper|launcher)\b|[@=]|$)")


def main() -> None:
    """Run the command line of this process, and exit with its status."""
    command = check_argv(CONFIG_NAME)
    if command is None:
        _show_config()
        return
    exit_if_finished(command)
    overrides, hydra_overrides = _split(command.overrides)
    raise SystemExit(run_command(command.loader, command.config_name, overrides, hydra_overrides))


# The path is absolute because in a console script Hydra resolves a relative one inside a package.
@hydra.main(config_path=str(CONF), config_name=CONFIG_NAME, version_base="1.3")
def _show_config(_: DictConfig) -> None:
    """Have Hydra print its help or the config; with these flags, it does not call this function."""


def run_command(
    loader: ConfigLoader,
    config_name: str,
    overrides: Sequence[str],
    hydra_overrides: Sequence[str] = (),
) -> int:
    """Run the cell or grid that overrides ask for; return the exit status."""
    try:
        with (
            exit_on_error(interrupted="Interrupted while no cell was running.", by=Interrupted),
            interruptible(),
        ):
            catalog = compose_catalog(loader, config_name, tuple(hydra_overrides))
            arguments = parse_arguments(loader, overrides)
            request, digest = parse_request(catalog, arguments), request_digest(catalog, arguments)
            with without_gc(freeze=True):
                from experiments.sweep.launch import launch  # imports torch, which takes seconds

            return launch(catalog, request, BrokenPipeConsole(), digest)
    except SystemExit as error:  # from exit_on_error, while planning
        return int(error.code or 0)


@dataclass(frozen=True)
class CheckedCommand:
    """A valid command line that runs cells."""

    loader: ConfigLoader
    config_name: str
    overrides: list[str]


def exit_if_finished(command: CheckedCommand) -> None:
    """If all cells of a command are done, print its summary and exit, before Hydra composes it."""
    with exit_on_error():
        cell_overrides, hydra_overrides = _split(command.overrides)
        catalog = compose_catalog(command.loader, command.config_name, hydra_overrides)
        arguments = parse_arguments(command.loader, cell_overrides)
        request, digest = parse_request(catalog, arguments), request_digest(catalog, arguments)
        status = show_if_finished(request, digest, BrokenPipeConsole())
    if status is not None:
        raise SystemExit(status)


def check_argv(config_name: str) -> CheckedCommand | None:
    """Check the command line of this process; print an error and exit if it is invalid.

    Rewrite `sys.argv` so that Hydra accepts it. Return None if the command runs no cells: if it has
    a flag for help or completion (then nothing is checked) or a flag that shows the config.
    """
    with exit_on_error():
        flags = hydra_arguments()
        if flags.help or flags.hydra_help or flags.shell_completion:
            return None
        if flags.multirun and (flags.cfg or flags.info):
            raise ConfigError("--cfg and --info show one cell; remove -m")
        if flags.experimental_rerun:
            raise ConfigError("--experimental-rerun is not supported; give the command's overrides")
        if flags.config_path:
            raise ConfigError(
                "--config-path would replace conf/; add your own options with --config-dir FOLDER"
            )
        loader = config_loader(flags.config_dir)
        name = flags.config_name or config_name
        checked = check_command(loader, name, flags.overrides, flags.multirun)
    rewritten = dict(zip(flags.overrides, checked, strict=True))
    sys.argv[1:] = [rewritten.get(text, text) for text in sys.argv[1:]]
    return None if flags.cfg or flags.info else CheckedCommand(loader, name, checked)


def _split(overrides: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the overrides of cells, and those of Hydra."""
    return (
        [text for text in overrides if not HYDRA_OVERRIDE.match(text)],
        tuple(text for text in overrides if HYDRA_OVERRIDE.match(text)),
    )


def check_command(
    loader: ConfigLoader, config_name: str, overrides: Sequence[str], multirun: bool
) -> list[str]:
    """Check overrides before Hydra does, and prefix those that set keys with `++`.

    Hydra would refuse `init.layers.conv1.gain=2` (no such key yet), run one default cell for a
    sweep without `-m`, and suggest no nearest choices.

    Raises
    ------
    ConfigError
        An override is invalid.
    """
    cell_overrides, hydra_overrides = _split(overrides)
    for text in hydra_overrides:
        if "submitit" in text:
            raise ConfigError(
                f"{text}: use runner=slurm instead, which runs many cells in a job and "
                "resumes after an interruption; set runner.slurm.partition=NAME (see "
                "conf/runner/slurm.yaml)"
            )
        if HYDRA_PLUGIN.match(text):
            raise ConfigError(
                f"{text}: Hydra's sweeper and launcher can't be replaced; choose where cells run "
                "with runner=NAME"
            )
    catalog = compose_catalog(loader, config_name, hydra_overrides)
    arguments = parse_arguments(loader, cell_overrides)
    for argument in arguments:
        if not multirun and (argument.swept or argument.key == "sweep"):
            raise ConfigError(f"{argument.text}: a grid needs -m: {_grid_command(overrides)}")
    _check_keys(catalog, arguments)
    keys = {argument.text for argument in arguments if not argument.is_group}
    return [f"++{text.lstrip('+')}" if text in keys else text for text in overrides]


def _grid_command(overrides: Sequence[str]) -> str:
    plan = "sweep.mode=plan"  # added by `fanin plan`
    if plan in overrides:
        return command_line("plan", "-m", *(text for text in overrides if text != plan))
    return command_line("run", "-m", *overrides)


def _check_keys(catalog: ConfigCatalog, arguments: Sequence[Argument]) -> None:
    """Check that every key exists for every option chosen for its group.

    If a named sweep chooses a group's option, the group's keys are checked later, cell by cell.
    """
    chosen = {a.key: a.values for a in arguments if a.is_group}
    sweep = chosen.get("sweep", (catalog.defaults.get("sweep"),))[-1]
    sweep_keys = keys_in_sweep(catalog.node("sweep", sweep)) if sweep is not None else set()
    retargeted = {a.key for a in arguments if a.key.endswith(f".{TARGET}")}
    for argument in arguments:
        group = argument.key.partition(".")[0]
        if argument.is_group:
            for option in argument.values:
                catalog.node(argument.key, option)
        elif f"{group}.{TARGET}" in retargeted:
            # Instantiating the target checks its own keys.
            catalog.check_key(group, {})
        elif group in chosen or group not in sweep_keys:
            for option in chosen.get(group, (catalog.defaults.get(group),)):
                catalog.check_key(argument.key, {group: option})


def compose_catalog(
    loader: ConfigLoader, config_name: str, hydra_overrides: tuple[str, ...]
) -> ConfigCatalog:
    """Return the catalog of all options, composed once per process.

    Hydra creates a second loader besides the one that checks the command line, with the same search
    path.
    """
    paths = [element.path or "" for element in loader.get_search_path().get_path()]
    search_path = tuple(path.removeprefix("file://") for path in paths)
    # Drop `hydra.mode`, which Hydra adds by itself.
    overrides = tuple(text for text in hydra_overrides if not text.startswith("hydra.mode="))
    return _composed(_Source(search_path, config_name, overrides, loader))


@dataclass(frozen=True)
class _Source:
    search_path: tuple[str, ...]
    config_name: str
    hydra_overrides: tuple[str, ...]
    loader: ConfigLoader = field(compare=False)


@cache
def _composed(source: _Source) -> ConfigCatalog:
    return ConfigCatalog(source.loader, source.config_name, source.hydra_overrides)
