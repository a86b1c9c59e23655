"""Cells that misbehave: each is named with what it did, and costs no other cell anything."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from fault_rows import Record, again_here, ended, fault
from speed import slowness
from sweep_process import Site, finish, until

from analysis import load

RETRY = "sweep.retry=[error,oom,timeout]"
LIMIT = 20  # seconds that a cell may take on an idle machine

# What a cell does in its third training step; its outcome, and the reason that is given.
Trouble = tuple[str, str, str]
KILLS: dict[str, Trouble] = {
    fault("a cell that segfaults (`ctypes.string_at(0)`)"): ("segfault", "killed", "SIGSEGV"),
    fault("a cell that calls `os._exit(0)`"): ("vanish", "killed", "left in the middle of it"),
    fault("a cell that calls `os._exit(3)`"): ("leave", "killed", "exit code 3"),
}
FAILS: dict[str, Trouble] = {
    fault("a cell that allocates without bound (`runner.memory_gb=3`)"): (
        "allocate", "oom", "can't allocate memory",
    ),
    fault("a cell whose module keeps all memory there is"): (
        "leak", "oom", "emory|bad_alloc",
    ),
    fault("a cell that raises `KeyboardInterrupt`"): ("interrupt", "error", "KeyboardInterrupt"),
    fault("a cell that calls `sys.exit(3)`"): ("exit", "error", "SystemExit: 3"),
    fault("a cell that raises"): ("raise", "error", "ValueError: no luck with"),
}  # fmt: skip
HANGS: dict[str, Trouble] = {
    fault("a cell that hangs in C and ignores SIGTERM (`runner.cell_seconds`)"): (
        "hang", "timeout", "ran longer than",
    ),
    fault("a cell that hangs in C and holds Python's lock"): (
        "hang with the GIL", "timeout", "ran longer than",
    ),
}  # fmt: skip
CHILD = fault("a cell whose child process outlives it")


def assert_each_is_named(here: Site, cells: int, troubles: Mapping[int, Trouble]) -> None:
    """The guilty have their outcome and reason, all others are done."""
    found = load("s", here.root).cells.set_index("init.number").sort_index()
    assert list(found.index) == list(range(cells))
    for number, row in found.iterrows():
        _, outcome, says = troubles.get(number, ("", "ok", ""))
        assert row["outcome"] == outcome, (number, row["outcome_reason"])
        reason = str(row["outcome_reason"])
        assert any(words in reason for words in says.split("|")), (number, reason)


def limits() -> tuple[str, str]:
    return f"runner.cell_seconds={round(LIMIT * slowness())}", "runner.memory_gb=3"


def run(here: Site, troubles: Mapping[int, Trouble], *words: str) -> None:
    """Run a sweep whose cells of these numbers are in for trouble, until it has ended by itself."""
    for number, (kind, _, _) in troubles.items():
        here.tell(f"step-{number}", kind)
    sweep = here.start(*words)
    try:
        until(lambda: sweep.poll() is not None)
        assert sweep.returncode == 1
    finally:
        here.forget("step-*")  # which also ends the child that a cell has left
        said = finish(sweep)
    assert "Traceback" not in said


def test_what_cells_do_to_their_process_stays_with_them(faulty: Site, record: Record) -> None:
    guilty = dict(zip((0, 2, 10, 5, 6, 11, 13, 15, 4, 9), {**KILLS, **FAILS, **HANGS}, strict=True))
    troubles = {number: {**KILLS, **FAILS, **HANGS}[what] for number, what in guilty.items()}
    faulty.tell("step-14", "fork")
    words = ("init.number=range(16)", "runner.workers=2", "runner.pack_cells=8", *limits())
    run(faulty, troubles, *words)
    assert_each_is_named(faulty, 16, troubles)
    assert ended(faulty, 1) == "exit 1; 3 error, 3 killed, 6 ok, 2 oom, 2 timeout"
    again_here(faulty, *words, RETRY, cells=16)
    for number, what in guilty.items():
        outcome = troubles[number][1]
        kept = "it runs again" if outcome == "killed" else f"`sweep.retry=[{outcome}]` runs it"
        record(what, f"`{outcome}`; exit 1; all other cells run", f"{kept}; exit 0, each cell once")
    record(CHILD, "`ok`; exit 0; the child is left alone", "nothing to do; exit 0")


def test_what_a_stacked_cell_does_is_found_out(faulty: Site) -> None:
    stacked(faulty, {1: KILLS[next(iter(KILLS))]}, cells=4, size=4)


@pytest.mark.slow
def test_what_cells_do_to_the_stack_they_are_in_is_found_out(faulty: Site) -> None:
    """Each trouble in a stack of two, of which the other cell is done."""
    hang = HANGS[next(iter(HANGS))]  # one: a stack may take the time of all its cells
    kinds = [*KILLS.values(), *FAILS.values(), hang]
    troubles = {2 * n + 1: each for n, each in enumerate(kinds)}
    stacked(faulty, troubles, cells=2 * len(troubles), size=2)


def stacked(here: Site, troubles: dict[int, Trouble], cells: int, size: int) -> None:
    grid = (f"init.number=range({cells})", f"runner.pack_cells={size}", "runner.workers=1")
    words = (*grid, "engine=stacked", *limits())
    run(here, troubles, *words)
    assert_each_is_named(here, cells, troubles)
    assert set(load("s", here.root).cells["engine"]) == {"stacked"}
    again_here(here, *words, RETRY, cells=cells)
