"""`run_sweep`: run a sweep from Python, in a process of its own."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any
from warnings import warn

from experiments.config.catalog import config_loader
from experiments.config.groups import CONF
from experiments.console import INTERRUPTED, USAGE_ERROR
from experiments.sweep.cli import check_command, compose_catalog
from experiments.sweep.overrides import parse_arguments
from fanin.errors import ConfigError, FaninError, FaninWarning

CONFIG_NAME = "config"
PLAIN_TEXT = re.compile(r"[A-Za-z_][\w./-]*")  # needs no quotes in Hydra's grammar
RESERVED = ("true", "false", "null", "nan", "inf")


def run_sweep(
    overrides: Mapping[str, Any] | Iterable[str] = (),
    *,
    config_dir: str | Path | None = None,
    quiet: bool = False,
) -> Path:
    """Run a cell or a grid of cells, as `fanin run -m` does.

    The sweep runs in a process of its own, so scripts need no `if __name__ == "__main__"`, and the
    results do not depend on what this process has done before. Cells that are already in the
    results folder are not run again. Ctrl-C stops the sweep after saving its state; call
    `run_sweep` again to resume.

    Parameters
    ----------
    overrides
        Overrides as on the command line, such as `["init=he_normal,zeros", "seed=range(3)"]`, or a
        dictionary of values by key. In a dictionary, lists, tuples and ranges are the values of a
        grid; write `[[64, 64]]` to set a key to the list `[64, 64]`. `"sweep"` chooses a named
        sweep, `"sweep.name"` the name of the results folder.
    config_dir
        Folder with further options of the config groups.
    quiet
        Print neither the plan nor the progress.

    Returns
    -------
    pathlib.Path
        The results folder, as an absolute path. `analysis.load` reads it.

    Raises
    ------
    ConfigError
        An override is invalid; the message lists the nearest choices.
    FaninError
        The sweep could not run.
    KeyboardInterrupt
        The sweep was interrupted.

    Warns
    -----
    FaninWarning
        Some cells failed. The column `outcome_reason` of the table `cells` gives the reasons.

    Examples
    --------
    >>> from experiments import run_sweep
    >>> from analysis import load
    >>> folder = run_sweep(
    ...     {"init": ["he_normal", "xavier_normal"], "train.steps": 20, "sweep.name": "two_inits"}
    ... )  # doctest: +SKIP
    >>> load(folder).cells.groupby("init").test_accuracy.mean()  # doctest: +SKIP
    """
    texts = to_overrides(overrides)
    folder = _results_folder(texts, config_dir)
    flags = ["-m"] if config_dir is None else ["-m", "--config-dir", str(config_dir)]
    status, errors = _run([sys.executable, "-m", "experiments.run", *flags, *texts], quiet)
    if status == INTERRUPTED:
        raise KeyboardInterrupt(errors)
    if status == USAGE_ERROR:
        raise ConfigError(errors)
    if status not in (0, 1):
        raise FaninError(f"the sweep's process ended with status {status}: {errors}")
    if errors and not quiet:
        print(errors, file=sys.stderr)
    if status == 1:
        warn(f"Some cells of {folder} failed.", FaninWarning, stacklevel=2)
    return folder


def to_overrides(overrides: Mapping[str, Any] | Iterable[str]) -> list[str]:
    """Return overrides as texts in Hydra's grammar.

    Raises
    ------
    ConfigError
        An override is not text, or a value has no notation in Hydra's grammar.

    Examples
    --------
    >>> to_overrides({"init": ["he_normal", "zeros"], "seed": range(2), "optim.lr": 0.1})
    ['init=he_normal,zeros', 'seed=0,1', 'optim.lr=0.1']
    >>> to_overrides({"model.widths": [[64, 64]], "data.root": "/my data", "sweep.name": "a"})
    ['model.widths=[64,64]', "data.root='/my data'", 'sweep.name=a']
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides={overrides!r}: pass a list of texts or a dictionary")
    if not isinstance(overrides, Mapping):
        texts = list(overrides)
        for text in texts:
            if not isinstance(text, str):
                raise ConfigError(f"overrides: expected text such as 'seed=1', got {text!r}")
        return texts
    return [f"{key}={_swept(key, value)}" for key, value in overrides.items()]


def _swept(key: str, value: Any) -> str:
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if not isinstance(value, list | tuple | range):
        return _text(key, value)
    if len(value) == 0:
        raise ConfigError(f"{key}: no values; list one or more")
    return ",".join(_text(key, item) for item in value)


def _text(key: str, value: Any) -> str:
    """Return one value in Hydra's grammar."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str() | Path():
            text = str(value)
            if PLAIN_TEXT.fullmatch(text) and text.lower() not in RESERVED:
                return text
            return "'" + re.sub(r"(\\*)('|$)", _escaped, text) + "'"
        case list() | tuple() | range():
            return f"[{','.join(_text(key, item) for item in value)}]"
        case Mapping():
            items = (f"{name}:{_text(key, item)}" for name, item in value.items())
            return f"{{{','.join(items)}}}"
    raise ConfigError(f"{key}: {type(value).__name__} is not supported; pass numbers or text")


def _escaped(match: re.Match[str]) -> str:
    """Escape a quote and the backslashes before it, or those at the end of the text."""
    quote = "\\'" if match[2] else ""
    return 2 * match[1] + quote


def _results_folder(texts: list[str], config_dir: str | Path | None) -> Path:
    """Check the overrides, and return the folder of the sweep that they specify."""
    from experiments.sweep.request import parse_request  # imports torch

    loader = config_loader(None if config_dir is None else str(config_dir))
    check_command(loader, CONFIG_NAME, texts, multirun=True)
    catalog = compose_catalog(loader, CONFIG_NAME, ())
    return parse_request(catalog, parse_arguments(loader, texts)).folder.root.resolve()


def _run(command: list[str], quiet: bool) -> tuple[int, str]:
    """Run a command and show its output; return its status and what it wrote to stderr."""
    search_path = os.pathsep.join([str(CONF.parent), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": search_path}
    # A terminal shows the progress bar. Elsewhere (notebooks) print the lines from this process.
    is_terminal = sys.stdout.isatty()
    stdout = subprocess.DEVNULL if quiet else None if is_terminal else subprocess.PIPE
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=stdout, stderr=errors, env=environment, text=True
        )
        try:
            status = _wait(process.stdout, process)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # a second one has no effect
            _wait(process.stdout, process)
            status = INTERRUPTED
        errors.seek(0)
        return status, errors.read().strip()


def _wait(output: IO[str] | None, process: subprocess.Popen[str]) -> int:
    for line in output or ():
        print(line, end="")
    return process.wait()
