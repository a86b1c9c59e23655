"""Request: a parsed command, with its sweep, settings, runner and grids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator

from experiments.config.catalog import ConfigCatalog, assign
from experiments.config.instantiate import check_value, instantiate
from experiments.sweep.grid import Grid, Size, make_grids, select_size
from experiments.sweep.overrides import Argument
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import EngineChoice, Runner
from fanin.errors import ConfigError


def _a_folder_name(name: str) -> str:
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError("a sweep's name is the name of a folder, without slashes")
    return name


@dataclass(frozen=True)
class SweepSettings:
    """SweepSettings of a sweep: `sweep.*` of the config.

    Parameters
    ----------
    name
        The folder under `results`; None: the named sweep's own name, or one made of the axes.
    mode
        `run`; `plan`: say what would run, and run nothing; `submit`: hand cells to Slurm, and don't
        wait for them.
    retry
        Outcomes to run again.
    results
        Where sweeps are kept.
    size
        Of a named sweep: `small`, minutes on a laptop; `paper`, as published, for a cluster.
    """

    name: Annotated[str, AfterValidator(_a_folder_name)] | None = None
    mode: Literal["run", "plan", "submit"] = "run"
    retry: tuple[Literal["error", "oom", "timeout", "killed"], ...] = ()
    results: str = "results"
    size: Size = "small"


@dataclass(frozen=True)
class NamedSweep:
    """Description of a named sweep, beside its grid.

    Attributes
    ----------
    sweep
        Its name in `conf/sweep/`.
    question
        That it answers.
    source
        The publication whose figure it makes again.
    criterion
        What has to come out for the publication's claim to count as reproduced.
    """

    sweep: str
    question: str | None = None
    source: str | None = None
    criterion: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Request:
    """A parsed command: cells to run, their folder, their runner."""

    settings: SweepSettings
    name: str
    named: NamedSweep | None
    grids: Sequence[Grid]
    runner: Runner
    engine: EngineChoice

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder(Path(self.settings.results) / self.name)


def parse_request(space: ConfigCatalog, arguments: Sequence[Argument]) -> Request:
    """Sort the command line into the sweep, its settings, the runner and the grid.

    Raises
    ------
    ConfigError
        See `experiments.sweep.overrides` and `expand`; nothing has run then.
    """
    about: dict[str, list[Argument]] = {"sweep": [], "runner": [], "engine": [], "cell": []}
    for argument in arguments:
        group = argument.key.partition(".")[0]
        about[group if group in about else "cell"].append(argument)
        if group in ("sweep", "runner", "engine") and argument.swept:
            typed = argument.text.lstrip("+")  # `check_command` puts them there
            raise ConfigError(f"{typed}: {argument.key} can't be swept; give one value")
    option, node = _chosen(space, "sweep", about["sweep"])
    _, runner = _chosen(space, "runner", about["runner"])
    own = [field.name for field in fields(SweepSettings)]
    settings = _settings({key: node.pop(key) for key in own})
    engine = about["engine"][0].values[0] if about["engine"] else space.base["engine"]
    node = select_size(node, settings.size)
    grids = make_grids(about["cell"], node if option is not None else None)
    return Request(
        settings=settings,
        name=settings.name or _option_name(option, settings) or _default_name(about["cell"]),
        named=None if option is None else _named(option, node),
        grids=grids,
        runner=instantiate(runner, "runner"),
        engine=check_value(engine, EngineChoice, "engine"),
    )


def _chosen(
    space: ConfigCatalog, group: str, arguments: Sequence[Argument]
) -> tuple[str | None, dict[str, Any]]:
    """Return a group's option and its mapping, with the command line's keys set."""
    option = space.defaults.get(group)
    for argument in arguments:
        if argument.key == group:
            option = argument.values[0]
    node = dict(space.base[group] if option is None else space.node(group, option))
    for argument in arguments:
        if argument.key != group:
            space.check_key(argument.key, {group: option})
            node = assign(node, argument.key.partition(".")[2], argument.values[0])
    return option, node


def _named(option: str, node: Mapping[str, Any]) -> NamedSweep:
    hints = get_type_hints(NamedSweep)
    about = ("question", "source", "criterion")
    return NamedSweep(
        option, **{key: check_value(node.get(key), hints[key], f"sweep.{key}") for key in about}
    )


def _option_name(option: str | None, settings: SweepSettings) -> str | None:
    """Return the folder of a named sweep; each size has its own."""
    return f"{option}-paper" if option and settings.size == "paper" else option


def _settings(node: Mapping[str, Any]) -> SweepSettings:
    hints = get_type_hints(SweepSettings, include_extras=True)
    return SweepSettings(
        **{key: check_value(node[key], hint, f"sweep.{key}") for key, hint in hints.items()}
    )


def _default_name(arguments: Sequence[Argument]) -> str:
    """Return `single`, or for a grid its swept keys and a hash of the whole command.

    The same command finds its folder again.
    """
    swept = [argument.key.rpartition(".")[2] for argument in arguments if argument.swept]
    if not swept:
        return "single"
    asked = [a.text for a in arguments if a.key not in ("data.root", "data.download")]
    digest = hashlib.sha256("\n".join(sorted(asked)).encode()).hexdigest()
    return f"{'-'.join(swept)}-{digest[:8]}"
