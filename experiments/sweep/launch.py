"""From a request to a finished sweep: expand, compare with what is there, run the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from experiments.config.catalog import ConfigCatalog
from experiments.config.instantiate import instantiate_wrapped
from experiments.console import INTERRUPTED
from experiments.data import Data
from experiments.sweep.differences import full_label
from experiments.sweep.engines import choose_by_rule, time_engines
from experiments.sweep.expand import expand
from experiments.sweep.interrupts import Interrupted
from experiments.sweep.plan import PackLimits, Plan, make_plan, with_engines
from experiments.sweep.request import Request
from experiments.sweep.runners.devices import devices
from experiments.sweep.slurm.submission import cells_in_jobs
from experiments.sweep.status.format import plural
from experiments.sweep.status.progress import show_progress
from experiments.sweep.status.summary import (
    confirm_cancel,
    show_counts,
    show_end,
    show_engines,
    show_jobs,
    show_plan,
)
from experiments.sweep.store.format_version import check_format
from experiments.sweep.store.lock import SweepLock, acquire_sweep_lock
from experiments.sweep.store.plan_file import PlanRecord, check_plan, read_plan, write_plan
from experiments.sweep.store.scan import quarantine
from experiments.sweep.store.tables import DONE, read_states
from experiments.sweep.types import DetachedRunner, Heartbeat, PlannedCell, pack_key
from experiments.sweep.worker.finalize import CANCELLED, recover_journals
from fanin.errors import ConfigError

STACK_SHARE = 0.5  # of a worker's memory, for a stack: the rest holds data, code and what is probed


def launch(space: ConfigCatalog, request: Request, console: Console) -> int:
    """Plan the request and, unless only the plan is asked for, run it.

    Returns
    -------
    int
        The exit status: 0, 1 where a cell of this sweep has failed, 130 after an interruption.

    Raises
    ------
    Interrupted
        Within `interruptible`: it came before any cell ran.
    """
    folder, mode = request.folder, request.settings.mode
    if mode == "submit" and not isinstance(request.runner, DetachedRunner):
        raise ConfigError(
            "sweep.mode=submit needs a runner whose jobs go on by themselves: runner=slurm"
        )
    check_format(folder)
    cells = expand(space, request.grids)
    if mode == "plan":
        show_plan(console, request, _plan(request, cells, read_plan(folder)))
        return 0
    with acquire_sweep_lock(folder) as hold:
        frozen = read_plan(folder)
        recover_journals(folder, frozen)
        for fault in quarantine(folder):
            console.print(str(fault), highlight=False, markup=False)
        plan = _plan(request, cells, frozen)
        show_counts(console, request, plan)
        if plan.queued and not isinstance(request.runner, DetachedRunner):
            raise ConfigError(
                f"{folder.root}: Slurm has {plural(plan.queued, 'cell')} of this sweep in hand: "
                "runner=slurm waits for them, python -m experiments.cancel takes them back"
            )
        if plan.packs:
            prepare_data(plan, hold.heartbeat)
            plan = _timed(request, plan, hold.heartbeat, console)
            timings = {
                task.cell_id: plan.engines.chosen[key]
                for key in plan.engines.trial_groups
                for task in plan.groups[key]
            }
            write_plan(folder, frozen, cells, timings, _asked(request))
        if mode == "submit":
            assert isinstance(request.runner, DetachedRunner)
            request.runner.submit(folder, plan.packs, hold.heartbeat)
            show_jobs(console, folder)
            return 0
        if (plan.packs or plan.queued) and not _run(request, plan, hold, console):
            return INTERRUPTED
    ids = {cell.id for cell in cells}
    states = {key: state for key, state in read_states(folder).items() if key in ids}
    return show_end(console, request, states, len(cells))


def _timed(request: Request, plan: Plan, heartbeat: Heartbeat, console: Console) -> Plan:
    """Return the plan with the engines that `engine=auto` found fastest."""
    if plan.engines.untimed:
        kinds = plural(len(plan.engines.untimed), "kind")
        console.print(f"engine=auto: timing {kinds} of cells", highlight=False)
        device = devices(request.runner.device)[0]
        engines = time_engines(plan.engines, plan.groups, request.runner, device, heartbeat)
        plan = with_engines(plan, engines, _bounds(request))
    show_engines(console, plan.engines)
    return plan


def prepare_data(plan: Plan, heartbeat: Heartbeat) -> None:
    """Find or fetch the files of every data set that is about to be used, and verify them.

    Parameters
    ----------
    plan
        What is about to run.
    heartbeat
        Called before each data set.

    Raises
    ------
    DataError
        A file is missing or damaged: better said once, now, than by every cell.
    """
    nodes = {json.dumps(t.config["data"]): t.config["data"] for p in plan.packs for t in p.cells}
    for node in nodes.values():
        heartbeat()
        instantiate_wrapped(Data, node, "data").prepare()


def _asked(request: Request) -> dict[str, Any]:
    return {
        "name": request.name,
        **_about(request),
        "axes": [
            {a.name: [full_label(v) for v in a.values] for a in g.axes} for g in request.grids
        ],
        "exclude": [full_label(pattern) for g in request.grids for pattern in g.exclude],
    }


def _about(request: Request) -> dict[str, Any]:
    if request.named is None:
        return {}
    told = {"sweep": request.named.sweep, "size": request.settings.size}
    return told | {k: v for k, v in asdict(request.named).items() if v is not None}


def _run(request: Request, plan: Plan, hold: SweepLock, console: Console) -> bool:
    """Run a plan's packs; False where it was interrupted, with all that was finished kept."""
    folder = request.folder
    try:
        due = [task.cell_id for pack in plan.packs for task in pack.cells]
        due += cells_in_jobs(folder)
        with show_progress(folder, due, console) as show:

            def tick() -> None:
                hold.heartbeat()
                show()

            request.runner.run(folder, plan.packs, tick)
    except Interrupted:
        if isinstance(request.runner, DetachedRunner) and confirm_cancel(folder, console):
            request.runner.cancel(folder, hold.heartbeat)
        recover_journals(folder, read_plan(folder), CANCELLED)
        states = read_states(folder)
        left = sum(
            1 for cell in plan.cells if not (cell.id in states and states[cell.id].outcome in DONE)
        )
        console.print(
            f"Interrupted: {len(plan.cells) - left} of {len(plan.cells)} cells are done and kept "
            f"in {folder.root}; the same command runs the other {left}."
        )
        show_jobs(console, folder)
        return False
    return True


def _plan(request: Request, cells: Sequence[PlannedCell], frozen: Mapping[str, PlanRecord]) -> Plan:
    check_plan(request.folder, frozen, cells)
    recorded = {
        pack_key(line["config"]): line["engine"] for line in frozen.values() if "engine" in line
    }
    return make_plan(
        cells,
        read_states(request.folder),
        request.settings.retry,
        lambda groups: choose_by_rule(groups, request.engine, recorded),
        _bounds(request),
        cells_in_jobs(request.folder),
    )


def _bounds(request: Request) -> PackLimits:
    runner = request.runner
    return PackLimits(
        runner.n_workers, runner.pack_cells, int(STACK_SHARE * runner.worker_memory())
    )
