"""Launch of a sweep: expand the grid, skip finished cells, run the others."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from experiments.config.catalog import ConfigCatalog
from experiments.config.instantiate import instantiate_wrapped
from experiments.console import INTERRUPTED
from experiments.data import Data
from experiments.data_root import DATA, data_folder
from experiments.sweep.differences import full_label
from experiments.sweep.engines import choose_by_rule, time_engines
from experiments.sweep.expand import expand
from experiments.sweep.finished import record_finished
from experiments.sweep.interrupts import Interrupted
from experiments.sweep.plan import PackLimits, Plan, make_plan, with_engines
from experiments.sweep.request import Request
from experiments.sweep.runners.devices import devices
from experiments.sweep.slurm.submission import cells_in_jobs
from experiments.sweep.status.format import plural
from experiments.sweep.status.progress import print_progress, show_progress
from experiments.sweep.status.reader import StatusReader
from experiments.sweep.status.summary import (
    confirm_cancel,
    show_counts,
    show_end,
    show_engines,
    show_jobs,
    show_packing,
    show_pilot,
    show_plan,
)
from experiments.sweep.store.format_version import check_format
from experiments.sweep.store.lock import SweepLock, acquire_sweep_lock
from experiments.sweep.store.plan_file import (
    PlanRecord,
    check_plan,
    read_plan,
    record_request,
    write_plan,
)
from experiments.sweep.store.scan import quarantine
from experiments.sweep.store.tables import DONE, read_states
from experiments.sweep.types import (
    AUTO_ENGINE_REFUSED,
    DetachedRunner,
    Heartbeat,
    PlannedCell,
    pack_key,
)
from experiments.sweep.worker.finalize import CANCELLED, recover_journals
from experiments.training.stack_size import max_stacked_cells
from experiments.user_code import user_code_error
from fanin.commands import command_line
from fanin.errors import ConfigError, FaninError

STACK_SHARE = 0.5  # share of a worker's memory for a stack; the rest: data, code and probes


def launch(
    catalog: ConfigCatalog, request: Request, console: Console, digest: str | None = None
) -> int:
    """Plan the request, and run it unless `sweep.mode=plan`.

    Parameters
    ----------
    catalog
        All options.
    request
        The parsed command.
    console
        Console for all output.
    digest
        Output of `request_digest`, recorded if all cells are done.

    Returns
    -------
    int
        Exit status: 0; 1 if a cell of this request has failed; 130 after an interruption.

    Raises
    ------
    Interrupted
        A stop signal came while no cell was running (within `interruptible`).
    """
    folder, mode = request.folder, request.settings.mode
    is_detached = isinstance(request.runner, DetachedRunner)  # rejects invalid runner options
    if mode == "submit" and not is_detached:
        raise ConfigError("sweep.mode=submit needs a runner that submits jobs; add runner=slurm")
    check_format(folder)
    cells = expand(catalog, request.grids)
    if mode == "plan":
        plan = _plan(request, cells, read_plan(folder))
        show_plan(console, request, plan, missing_data(plan))
        return 0
    with acquire_sweep_lock(folder) as lock:
        records = read_plan(folder)
        recover_journals(folder, records)
        for problem in quarantine(folder):
            console.print(str(problem), highlight=False, markup=False, soft_wrap=True)
        plan = _plan(request, cells, records)
        show_counts(console, request, plan.counts)
        if plan.queued and not is_detached:
            raise ConfigError(
                f"{folder.root}: Slurm jobs still run {plural(plan.queued, 'cell')} of this sweep. "
                "Wait for them with runner=slurm, or run: "
                f"{command_line('cancel', folder.argument)}"
            )
        if plan.packs:
            prepare_data(plan, lock.heartbeat)
            plan = _time_engines(request, plan, lock.heartbeat, console)
            engines = {
                cell.cell_id: plan.engines.chosen[key]
                for key in plan.engines.trial_groups
                for cell in plan.groups[key]
            }
            seconds = {
                cell.cell_id: float(f"{plan.times.seconds[key]:.3g}")
                for key, group in plan.groups.items()
                for cell in group
            }
            write_plan(folder, records, cells, engines, seconds, _describe(request))
        record_request(folder, (cell.id for cell in cells))
        if mode == "submit":
            return _submit(request, plan, lock, console)
        if request.settings.pilot and (plan.untried or plan.awaited):
            show_pilot(console, plan)
            if not _run(request, plan.pilot(), lock, console):
                return INTERRUPTED
            plan = _plan(request, cells, read_plan(folder))
            show_packing(console, plan)
        if (plan.packs or plan.queued) and not _run(request, plan, lock, console):
            return INTERRUPTED
    ids = {cell.id for cell in cells}
    states = {key: state for key, state in read_states(folder).items() if key in ids}
    status = show_end(console, request, states, len(cells))
    if status == 0:
        record_finished(folder, digest, {cell.id: cell.config for cell in cells})
    return status


def _submit(request: Request, plan: Plan, lock: SweepLock, console: Console) -> int:
    """Submit a plan's packs; with `sweep.pilot=true`, only the pilot cells of untried groups."""
    assert isinstance(request.runner, DetachedRunner)
    if request.settings.pilot and plan.untried:
        show_pilot(console, plan)
        plan = plan.pilot()
    elif request.settings.pilot and plan.awaited:
        raise ConfigError(
            f"the pilot cells of {plural(len(plan.awaited), 'kind')} of cells have not ended yet; "
            "run the same command again when they have, or without sweep.pilot=true to submit now"
        )
    try:
        request.runner.submit(request.folder, plan.packs, lock.heartbeat)
        return 0
    except Interrupted:
        console.print("Interrupted. Run the same command again to submit the other jobs.")
        return INTERRUPTED
    finally:
        show_jobs(console, request.folder, submitted=True)


def _time_engines(request: Request, plan: Plan, heartbeat: Heartbeat, console: Console) -> Plan:
    """Return the plan with the engines that `engine=auto` measured as fastest."""
    if plan.engines.untimed:
        kinds = plural(len(plan.engines.untimed), "kind")
        console.print(f"engine=auto: timing {kinds} of cells", highlight=False)
        device = devices(request.runner.device)[0]
        engines = time_engines(plan.engines, plan.groups, request.runner, device, heartbeat)
        plan = with_engines(plan, engines, _pack_limits(request))
    show_engines(console, plan.engines)
    return plan


def prepare_data(plan: Plan, heartbeat: Heartbeat) -> None:
    """Find or download the files of every data set that the plan uses, and verify them.

    Parameters
    ----------
    plan
        Packs to run.
    heartbeat
        Called before each data set.

    Raises
    ------
    DataError
        A file is missing or damaged. Reported once here instead of by every cell.
    """
    for _, data in _data_sets(plan):
        heartbeat()
        try:
            data.prepare()
        except FaninError:
            raise
        except Exception as error:  # a user's data set may raise anything
            raise user_code_error("data", error) from error


def missing_data(plan: Plan) -> list[str]:
    """Return a line for each data set of the plan of which files do not exist."""
    lines = []
    for name, data in _data_sets(plan):
        if data.lacks_files():
            remedy = f"set data.root (or the environment variable {DATA})"
            if data.download:
                remedy = f"the launch downloads them. To use files that you have, {remedy}"
            folder = data_folder(data.root)
            lines.append(f"data={name}: not all of its files are in {folder}; {remedy}")
    return list(dict.fromkeys(lines))


def _data_sets(plan: Plan) -> Iterator[tuple[str, Data]]:
    """Yield the option and the settings of each data set that the plan uses."""
    cells = [cell for pack in plan.packs for cell in pack.cells]
    distinct = {json.dumps(cell.config["data"]): cell for cell in cells}
    for cell in distinct.values():
        yield str(cell.choices["data"]), instantiate_wrapped(Data, cell.config["data"], "data")


def _describe(request: Request) -> dict[str, Any]:
    return {
        "name": request.name,
        **_describe_sweep(request),
        "axes": [
            {a.name: [full_label(v) for v in a.values] for a in g.axes} for g in request.grids
        ],
        "exclude": [full_label(pattern) for g in request.grids for pattern in g.exclude],
    }


def _describe_sweep(request: Request) -> dict[str, Any]:
    if request.named is None:
        return {}
    description = {key: value for key, value in asdict(request.named).items() if value is not None}
    return {"sweep": request.named.sweep, "size": request.settings.size} | description


def _run(request: Request, plan: Plan, lock: SweepLock, console: Console) -> bool:
    """Run a plan's packs; return False after an interruption. Finished cells are kept."""
    folder = request.folder
    cell_ids = [cell.cell_id for pack in plan.packs for cell in pack.cells]
    reader = StatusReader(folder, [*cell_ids, *cells_in_jobs(folder)])
    try:
        with show_progress(reader, console) as show:

            def heartbeat() -> None:
                lock.heartbeat()
                show()

            request.runner.run(folder, plan.packs, heartbeat)
    except Interrupted as stop:
        runner = request.runner
        if isinstance(runner, DetachedRunner) and (
            # Only after Ctrl-C is there a user who answers.
            stop.number == signal.SIGINT and confirm_cancel(folder, console)
        ):
            runner.cancel(folder, lock.heartbeat)
        recover_journals(folder, read_plan(folder), CANCELLED)
        print_progress(reader, console)  # counts the cells that were running as cancelled
        states = read_states(folder)
        done = sum(
            1 for cell in plan.cells if cell.id in states and states[cell.id].outcome in DONE
        )
        console.print(
            f"Interrupted: {done} of {len(plan.cells)} cells are done and saved in {folder.root}/. "
            "Run the same command again to resume.",
            soft_wrap=True,
        )
        show_jobs(console, folder)
        return False
    except FaninError:
        print_progress(reader, console)
        raise
    print_progress(reader, console)
    return True


def _plan(
    request: Request, cells: Sequence[PlannedCell], records: Mapping[str, PlanRecord]
) -> Plan:
    check_plan(request.folder, records, cells)
    recorded = {
        pack_key(record["config"]): record["engine"]
        for record in records.values()
        if "engine" in record
    }
    plan = make_plan(
        cells,
        read_states(request.folder),
        request.settings.retry,
        lambda groups: choose_by_rule(groups, request.engine, recorded),
        _pack_limits(request),
        cells_in_jobs(request.folder),
        {cell_id: record["config"] for cell_id, record in records.items()},
    )
    if plan.engines.untimed and isinstance(request.runner, DetachedRunner):
        raise ConfigError(AUTO_ENGINE_REFUSED)
    return plan


def _pack_limits(request: Request) -> PackLimits:
    runner = request.runner
    device = runner.job_device if isinstance(runner, DetachedRunner) else runner.device
    return PackLimits(
        runner.n_workers,
        runner.pack_cells,
        int(STACK_SHARE * runner.worker_memory()),
        max_stacked_cells(device),
    )
