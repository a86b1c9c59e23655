"""Cells that crash, hang or exhaust memory: each gets its outcome, and no other cell fails."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from fault_rows import Record, describe_end, fault, rerun
from speed import slowness
from sweep_process import Site, wait_for_output, wait_until

from analysis import load

RETRY = "sweep.retry=[error,oom,timeout]"
LIMIT = 20  # seconds that a cell may take on an idle machine

# Failure in the third training step, the cell's outcome, and its reason.
Failure = tuple[str, str, str]
KILLS: dict[str, Failure] = {
    fault("a cell that segfaults (`ctypes.string_at(0)`)"): ("segfault", "killed", "SIGSEGV"),
    fault("a cell that calls `os._exit(0)`"): ("vanish", "killed", "exited during the cell"),
    fault("a cell that calls `os._exit(3)`"): ("leave", "killed", "exit code 3"),
}
FAILS: dict[str, Failure] = {
    fault("a cell that allocates without bound (`runner.memory_gb=3`)"): (
        "allocate", "oom", "can't allocate memory",
    ),
        fault("a cell that leaks memory: a global of the user's module keeps all tensors"): (

        "leak", "oom", "emory|bad_alloc",
    ),
    fault("a cell that raises `KeyboardInterrupt`"): ("interrupt", "error", "KeyboardInterrupt"),
    fault("a cell that calls `sys.exit(3)`"): ("exit", "error", "SystemExit: 3"),
    fault("a cell that raises an exception"): ("raise", "error", "ValueError: no luck with"),
}  # fmt: skip
HANGS: dict[str, Failure] = {
    fault("a cell that hangs in C and ignores SIGTERM (`runner.cell_seconds`)"): (
        "hang", "timeout", "ran longer than",
    ),
    fault("a cell that hangs in C and holds the GIL"): (
        "hang with the GIL", "timeout", "ran longer than",
    ),
}  # fmt: skip
CHILD = fault("a cell that starts a process and ends before that process")


def assert_outcomes(site: Site, cells: int, failures: Mapping[int, Failure]) -> None:
    """Assert the outcome and reason of failing cells; all others are ok."""
    cells_table = load("s", site.root).cells.set_index("init.number").sort_index()
    assert list(cells_table.index) == list(range(cells))
    for number, row in cells_table.iterrows():
        _, outcome, reasons = failures.get(number, ("", "ok", ""))
        assert row["outcome"] == outcome, (number, row["outcome_reason"])
        reason = str(row["outcome_reason"])
        assert any(text in reason for text in reasons.split("|")), (number, reason)


def limits() -> tuple[str, str]:
    return f"runner.cell_seconds={round(LIMIT * slowness())}", "runner.memory_gb=3"


def run(site: Site, failures: Mapping[int, Failure], *arguments: str) -> None:
    """Run a sweep with failing cells until it ends."""
    for number, (kind, _, _) in failures.items():
        site.write_file(f"step-{number}", kind)
    sweep = site.start(*arguments)
    try:
        wait_until(lambda: sweep.poll() is not None)
        assert sweep.returncode == 1
    finally:
        site.remove_files("step-*")  # also ends the child process of a cell
        output = wait_for_output(sweep)
    assert "Traceback" not in output


def test_failing_cells_affect_no_other_cell(faulty: Site, record: Record) -> None:
    fault_of_cell = dict(
        zip((0, 2, 10, 5, 6, 11, 13, 15, 4, 9), {**KILLS, **FAILS, **HANGS}, strict=True)
    )
    failures = {number: {**KILLS, **FAILS, **HANGS}[what] for number, what in fault_of_cell.items()}
    faulty.write_file("step-14", "fork")
    arguments = ("init.number=range(16)", "runner.workers=2", "runner.pack_cells=8", *limits())
    run(faulty, failures, *arguments)
    assert_outcomes(faulty, 16, failures)
    assert describe_end(faulty, 1) == "exit 1; 3 error, 3 killed, 6 ok, 2 oom, 2 timeout"
    rerun(faulty, *arguments, RETRY, cells=16)
    for number, what in fault_of_cell.items():
        outcome = failures[number][1]
        kept = (
            "the cell runs again" if outcome == "killed" else f"`sweep.retry=[{outcome}]` runs it"
        )
        record(
            what,
            f"`{outcome}`; exit 1; all other cells run",
            f"{kept}; exit 0, one result per cell",
        )
    record(CHILD, "`ok`; exit 0; the process keeps running", "nothing to do; exit 0")


def test_failing_cell_of_a_stack_is_identified(faulty: Site) -> None:
    stacked(faulty, {1: KILLS[next(iter(KILLS))]}, cells=4, size=4)


@pytest.mark.slow
def test_every_failure_in_a_stack_is_identified(faulty: Site) -> None:
    """Put each failing cell in a stack with a cell that ends ok."""
    hang = HANGS[next(iter(HANGS))]  # only one, because the time limits of a stack add up
    kinds = [*KILLS.values(), *FAILS.values(), hang]
    failures = {2 * n + 1: each for n, each in enumerate(kinds)}
    stacked(faulty, failures, cells=2 * len(failures), size=2)


def stacked(site: Site, failures: dict[int, Failure], cells: int, size: int) -> None:
    grid = (f"init.number=range({cells})", f"runner.pack_cells={size}", "runner.workers=1")
    arguments = (*grid, "engine=stacked", *limits())
    run(site, failures, *arguments)
    assert_outcomes(site, cells, failures)
    assert set(load("s", site.root).cells["engine"]) == {"stacked"}
    rerun(site, *arguments, RETRY, cells=cells)
