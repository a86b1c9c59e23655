"""From a request to a finished sweep: expand, compare with what is there, run the rest."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from experiments.config.space import Space
from experiments.config.wrapper import build_wrapped
from experiments.data import Data
from experiments.errors import INTERRUPTED
from experiments.sweep.expand import expand, label
from experiments.sweep.plan import Plan, make_plan
from experiments.sweep.progress import shown
from experiments.sweep.request import Request
from experiments.sweep.runner import devices
from experiments.sweep.store.frozen import freeze
from experiments.sweep.store.lock import sole_launcher
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.store.state import read_states, recover
from experiments.sweep.summary import show_counts, show_end, show_plan


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
        due = [task.cell_id for pack in plan.packs for task in pack.tasks]
        with shown(folder, due, console) as tick:
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
