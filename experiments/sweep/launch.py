"""From a command to a finished sweep: expand, compare with what is there, run the rest."""

from __future__ import annotations

import hashlib
import json
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator
from rich.console import Console
from rich.table import Table

from experiments.config.build import build, check_value
from experiments.config.space import Space, assign
from experiments.config.wrapper import build_wrapped
from experiments.data import Data
from experiments.errors import INTERRUPTED, ConfigError
from experiments.sweep.expand import expand, label
from experiments.sweep.grid import Grid, grids_of
from experiments.sweep.overrides import Argument
from experiments.sweep.plan import Plan, make_plan
from experiments.sweep.progress import shown
from experiments.sweep.runner import Runner, devices
from experiments.sweep.store.frozen import freeze
from experiments.sweep.store.lock import sole_launcher
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.state import DONE, CellState, read_states, recover


def _a_folder_name(name: str) -> str:
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError("a sweep's name is the name of a folder, without slashes")
    return name


@dataclass(frozen=True)
class Settings:
    """What `sweep.*` says about the sweep itself.

    Parameters
    ----------
    name
        The folder under `results`; None: the named sweep's own name, or one made of the axes.
    mode
        `run`, or `plan`: say what would run, and run nothing.
    retry
        Outcomes to run again.
    results
        Where sweeps are kept.
    """

    name: Annotated[str, AfterValidator(_a_folder_name)] | None = None
    mode: Literal["run", "plan"] = "run"
    retry: tuple[Literal["error", "oom", "timeout", "killed"], ...] = ()
    results: str = "results"


@dataclass(frozen=True)
class Request:
    """A command, understood: what cells, in which folder, where to run."""

    settings: Settings
    name: str
    question: str | None
    grids: Sequence[Grid]
    runner: Runner
    arguments: Sequence[Argument]

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder(Path(self.settings.results) / self.name)


def understand(space: Space, arguments: Sequence[Argument]) -> Request:
    """Sort the command line into the sweep, its settings, the runner and the grid.

    Raises
    ------
    ConfigError
        See `experiments.sweep.overrides` and `expand`; nothing has run then.
    """
    about: dict[str, list[Argument]] = {"sweep": [], "runner": [], "cell": []}
    for argument in arguments:
        group = argument.key.partition(".")[0]
        about[group if group in about else "cell"].append(argument)
        if group in ("sweep", "runner") and argument.swept:
            raise ConfigError(f"{argument.text}: {argument.key} can't be swept; give one value")
    option, node = _chosen(space, "sweep", about["sweep"])
    _, runner = _chosen(space, "runner", about["runner"])
    own = [field.name for field in fields(Settings)]
    settings = _settings({key: node.pop(key) for key in own})
    grids = grids_of(about["cell"], node if option is not None else None)
    return Request(
        settings=settings,
        name=settings.name or option or _default_name(about["cell"]),
        question=node.get("question"),
        grids=grids,
        runner=build(runner, "runner"),
        arguments=arguments,
    )


def launch(space: Space, request: Request, console: Console) -> int:
    """Plan the request and, unless only the plan is asked for, run it.

    Returns
    -------
    int
        The exit status: 0, 1 where a cell of this sweep has failed, 130 after an interruption.
    """
    cells = expand(space, request.grids)
    folder = request.folder
    if request.settings.mode == "plan":
        show_plan(console, request, _plan(request, cells, folder))
        return 0
    with sole_launcher(folder):
        recover(folder)
        plan = _plan(request, cells, folder)
        show_counts(console, request, plan)
        if plan.packs:
            devices(request.runner.device)
            prepare_data(plan)
            freeze(folder, cells, _asked(request))
            if not _run(request, plan, folder, console):
                return INTERRUPTED
    ids = {cell.id for cell in cells}
    states = {key: state for key, state in read_states(folder).items() if key in ids}
    return show_end(console, request, states, len(cells))


def prepare_data(plan: Plan) -> None:
    """Find or fetch the files of every data set that is about to be used, and verify them.

    Raises
    ------
    DataError
        A file is missing or damaged: better said once, now, than by every cell.
    """
    nodes = {json.dumps(t.config["data"]): t.config["data"] for p in plan.packs for t in p.tasks}
    for node in nodes.values():
        build_wrapped(Data, node, "data").prepare()


def _asked(request: Request) -> dict[str, Any]:
    return {
        "name": request.name,
        "question": request.question,
        "axes": [{a.name: [label(v) for v in a.values] for a in g.axes} for g in request.grids],
        "exclude": [label(pattern) for g in request.grids for pattern in g.exclude],
    }


def _run(request: Request, plan: Plan, folder: SweepFolder, console: Console) -> bool:
    """Run a plan's packs; False where it was interrupted, with all that was finished kept."""
    before = {each: signal.signal(each, _interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with shown(folder, plan.pending, console) as tick:
            request.runner.run(folder, plan.packs, tick)
    except KeyboardInterrupt:
        recover(folder)
        left = _plan(request, plan.cells, folder).pending
        console.print(
            f"Interrupted: {len(plan.cells) - left} of {len(plan.cells)} cells are done and kept "
            f"in {folder.root}; the same command runs the other {left}."
        )
        return False
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return True


def _interrupt(*_: Any) -> None:
    """The first Ctrl-C or SIGTERM ends the sweep; more of them don't disturb its clearing up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _plan(request: Request, cells: Sequence[Any], folder: SweepFolder) -> Plan:
    states = read_states(folder)
    return make_plan(cells, states, request.settings.retry, request.runner.pack_cells)


def show_plan(console: Console, request: Request, plan: Plan) -> None:
    """Print each axis with its values, counts by state, packs and the expected time."""
    for number, grid in enumerate(request.grids, start=1):
        title = f"{request.name}" + (f", grid {number}" if len(request.grids) > 1 else "")
        table = Table("axis", "values", title=title, title_justify="left")
        for axis in grid.axes:
            table.add_row(axis.name, "\n".join(_short(value, axis.name) for value in axis.values))
        for pattern in grid.exclude:
            table.add_row("without", label(pattern))
        console.print(table)
    show_counts(console, request, plan)
    if plan.packs:
        console.print(f"Would run {plan.pending} cells in {len(plan.packs)} packs; ", end="")
        if plan.expected_seconds is None:
            console.print("no timings of such cells yet to say how long it takes.")
        else:
            console.print(f"about {plan.expected_seconds:.0f} s of one worker's time.")


def show_counts(console: Console, request: Request, plan: Plan) -> None:
    """Print cells by state, in one line."""
    counts = ", ".join(f"{count} {kind}" for kind, count in plan.counts.items())
    console.print(f"{request.name}: {len(plan.cells)} cells: {counts}", highlight=False)
    failed = plan.counts["failed"]
    if failed and not request.settings.retry:
        console.print("  (sweep.retry=[error,oom] runs failed cells again)", markup=False)


def show_end(
    console: Console, request: Request, states: Mapping[str, CellState], asked: int
) -> int:
    """Print how the cells ended and where they are; the exit status."""
    outcomes = Counter(state.outcome for state in states.values())
    counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    folder = request.folder
    console.print(f"{request.name}: {counted}; tables in {folder.root}/", highlight=False)
    bad = [(key, state) for key, state in states.items() if state.outcome not in DONE]
    # What went wrong in many cells is said once.
    faults = Counter((state.outcome, state.reason) for _, state in bad)
    for (outcome, reason), count in faults.most_common(5):
        key = next(key for key, s in bad if (s.outcome, s.reason) == (outcome, reason))
        which = key if count == 1 else f"{count} cells, one of them {key}"
        said = (reason or "").partition("\n")[0]
        console.print(f"  {outcome}: {said} ({which})", highlight=False, markup=False)
    if bad:
        console.print(f"  tracebacks: {folder.errors}/", highlight=False)
    if missing := asked - len(states):
        console.print(f"  {missing} cells left no result; the same command runs them again")
    return 1 if bad or missing else 0


def _short(assignment: Mapping[str, Any], name: str) -> str:
    if list(assignment) == [name]:
        return str(assignment[name])
    return label(dict(assignment))


def _chosen(
    space: Space, group: str, arguments: Sequence[Argument]
) -> tuple[str | None, dict[str, Any]]:
    """A group's option and its mapping, with the command line's keys set."""
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


def _settings(node: Mapping[str, Any]) -> Settings:
    hints = get_type_hints(Settings, include_extras=True)
    return Settings(
        **{key: check_value(node[key], hint, f"sweep.{key}") for key, hint in hints.items()}
    )


def _default_name(arguments: Sequence[Argument]) -> str:
    """One folder for single cells; for a grid, the swept keys and a hash of the whole command.

    The same command finds its folder again.
    """
    swept = [argument.key.rpartition(".")[2] for argument in arguments if argument.swept]
    if not swept:
        return "single"
    asked = [a.text for a in arguments if a.key not in ("data.root", "data.download")]
    digest = hashlib.sha256("\n".join(sorted(asked)).encode()).hexdigest()
    return f"{'-'.join(swept)}-{digest[:8]}"
