"""Workers and launchers killed again and again, at moments that nobody chose."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress

import pytest
from fault_rows import again_here
from sweep_process import Site, finish, gone, until

from experiments.sweep.store.journal import read_writer
from experiments.sweep.store.tables import read_states

CELLS = 60
WORDS = (f"init.number=range({CELLS})", "runner.workers=2", "runner.pack_cells=5")
LAUNCHES, KILLS = 2, 6  # of workers, in each launch


def writers(here: Site) -> list[int]:
    """The workers that have a journal now."""
    found = []
    for path in here.folder.journals.glob("*.journal"):
        with suppress(FileNotFoundError):
            if (writer := read_writer(path)) is not None:
                found.append(writer.process.pid)
    return found


@pytest.mark.slow
def test_kills_at_any_moment_lose_no_finished_cell(faulty: Site) -> None:
    choose = random.Random(4)
    kept: dict[str, int] = {}
    for _ in range(LAUNCHES):
        sweep = faulty.start(*WORDS)
        until(lambda: writers(faulty), sweep)
        for _ in range(KILLS):
            for _ in range(choose.randrange(100)):  # looks at the folder: some part of a pack
                workers = writers(faulty)
            if sweep.poll() is None and workers:
                with suppress(ProcessLookupError):
                    os.kill(choose.choice(workers), signal.SIGKILL)
        sweep.kill()
        said = finish(sweep)
        assert "Traceback" not in said, said
        until(lambda: all(gone(pid) for pid in writers(faulty)))
        states = read_states(faulty.folder)
        assert kept.items() <= {cell: s.attempt for cell, s in states.items()}.items()
        kept = {cell: s.attempt for cell, s in states.items() if s.outcome == "ok"}
    told = again_here(faulty, *WORDS, cells=CELLS)
    assert told.startswith("exit 0")
    states = read_states(faulty.folder)
    assert kept.items() <= {cell: s.attempt for cell, s in states.items()}.items()
