"""Parsing of a command into a request: sweep, settings, runner, engine and grids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator

from experiments.config.catalog import ConfigCatalog, assign
from experiments.config.instantiate import check_value, instantiate
from experiments.sweep.grid import STANDARD, Grid, Size, make_grids, select_size
from experiments.sweep.overrides import Argument
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import EngineChoice, Runner
from fanin.errors import ConfigError


def _check_folder_name(name: str) -> str:
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(
            "a sweep's name must be a folder name, without slashes and without a dot at its start"
        )
    return name


@dataclass(frozen=True)
class SweepSettings:
    """Settings of a sweep: `sweep.*` of the config.

    Parameters
    ----------
    name
        Name of the folder under `results`. None: the named sweep's name, or a name built from the
        swept keys.
    mode
        `run`; `plan`: print what would run; `submit`: submit to Slurm without waiting.
    retry
        Outcomes of cells to run again.
    results
        Folder of all sweeps.
    size
        Size of a named sweep: `small`, a smoke test of minutes; `standard`, which gives a study its
        verdict; `paper`, as published, for a cluster.
    pilot
        Run one cell of each kind first, and use its time to size packs and jobs.
    """

    name: Annotated[str, AfterValidator(_check_folder_name)] | None = None
    mode: Literal["run", "plan", "submit"] = "run"
    retry: tuple[Literal["error", "oom", "timeout", "killed"], ...] = ()
    results: str = "results"
    size: Size = STANDARD
    pilot: bool = False


@dataclass(frozen=True)
class NamedSweep:
    """Description of a named sweep.

    Attributes
    ----------
    sweep
        Name in `conf/sweep/`.
    question
        Question that the sweep answers.
    source
        Publication that it reproduces; `field report` for a question.
    scoring
        Claims, and the effects that decide them.
    """

    sweep: str
    question: str | None = None
    source: str | None = None
    scoring: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Request:
    """A parsed command: the grids to run, their folder, runner and engine."""

    settings: SweepSettings
    name: str
    named: NamedSweep | None
    grids: Sequence[Grid]
    runner_config: Mapping[str, Any]
    engine: EngineChoice

    @cached_property
    def runner(self) -> Runner:
        """The runner, created when it is first used, because this loads torch."""
        runner: Runner = instantiate(self.runner_config, "runner")
        return runner

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder(Path(self.settings.results) / self.name)


def parse_request(catalog: ConfigCatalog, arguments: Sequence[Argument]) -> Request:
    """Return the sweep, settings, runner, engine and grids that the command line specifies.

    Raises
    ------
    ConfigError
        An invalid setting, runner, engine or grid.
    """
    by_group: dict[str, list[Argument]] = {"sweep": [], "runner": [], "engine": [], "cell": []}
    for argument in arguments:
        group = argument.key.partition(".")[0]
        by_group[group if group in by_group else "cell"].append(argument)
        if group in ("sweep", "runner", "engine") and argument.swept:
            text = argument.text.lstrip("+")  # added by `check_command`
            raise ConfigError(f"{text}: {argument.key} can't have several values; give one")
    option, definition = _select(catalog, "sweep", by_group["sweep"])
    _, runner = _select(catalog, "runner", by_group["runner"])
    keys = [field.name for field in fields(SweepSettings)]
    settings = _settings({key: definition.pop(key) for key in keys})
    engine = by_group["engine"][0].values[0] if by_group["engine"] else catalog.base["engine"]
    definition = select_size(definition, settings.size)
    grids = make_grids(by_group["cell"], definition if option is not None else None)
    return Request(
        settings=settings,
        name=settings.name or _sized_name(option, settings) or _default_name(by_group["cell"]),
        named=None if option is None else _describe(option, definition),
        grids=grids,
        runner_config=runner,
        engine=check_value(engine, EngineChoice, "engine"),
    )


def _select(
    catalog: ConfigCatalog, group: str, arguments: Sequence[Argument]
) -> tuple[str | None, dict[str, Any]]:
    """Return a group's option and mapping, with the keys that the command line sets."""
    option = catalog.defaults.get(group)
    for argument in arguments:
        if argument.key == group:
            option = argument.values[0]
    node = dict(catalog.base[group] if option is None else catalog.node(group, option))
    for argument in arguments:
        if argument.key != group:
            catalog.check_key(argument.key, {group: option})
            node = assign(node, argument.key.partition(".")[2], argument.values[0])
    return option, node


def _describe(option: str, definition: Mapping[str, Any]) -> NamedSweep:
    hints = get_type_hints(NamedSweep)
    keys = ("question", "source", "scoring")
    return NamedSweep(
        option,
        **{key: check_value(definition.get(key), hints[key], f"sweep.{key}") for key in keys},
    )


def _sized_name(option: str | None, settings: SweepSettings) -> str | None:
    """Return the folder name of a named sweep; each size has its own."""
    return option if option is None or settings.size == STANDARD else f"{option}-{settings.size}"


def _settings(node: Mapping[str, Any]) -> SweepSettings:
    hints = get_type_hints(SweepSettings, include_extras=True)
    return SweepSettings(
        **{key: check_value(node[key], hint, f"sweep.{key}") for key, hint in hints.items()}
    )


def _default_name(arguments: Sequence[Argument]) -> str:
    """Return `single`, or for a grid the swept keys and a hash of the command.

    The same command gives the same name.
    """
    swept = [argument.key.rpartition(".")[2] for argument in arguments if argument.swept]
    if not swept:
        return "single"
    texts = [a.text for a in arguments if a.key not in ("data.root", "data.download")]
    digest = hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()
    return f"{'-'.join(swept)}-{digest[:8]}"
