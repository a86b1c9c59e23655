"""Workers and launchers killed repeatedly at random times."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress

import pytest
from fault_rows import rerun
from sweep_process import Site, has_ended, wait_for_output, wait_until

from experiments.sweep.store.journal import read_writer
from experiments.sweep.store.tables import read_states

CELLS = 60
WORDS = (f"init.number=range({CELLS})", "runner.workers=2", "runner.pack_cells=5")
LAUNCHES, KILLS = 2, 6  # of workers, in each launch


def writers(site: Site) -> list[int]:
    """Return the workers that have a journal now."""
    pids = []
    for path in site.folder.journals.glob("*.journal"):
        with suppress(FileNotFoundError):
            if (writer := read_writer(path)) is not None:
                pids.append(writer.process.pid)
    return pids


@pytest.mark.slow
def test_random_kills_lose_no_finished_cell(faulty: Site) -> None:
    rng = random.Random(4)
    kept: dict[str, int] = {}
    for _ in range(LAUNCHES):
        sweep = faulty.start(*WORDS)
        wait_until(lambda: writers(faulty), sweep)
        for _ in range(KILLS):
            for _ in range(rng.randrange(100)):  # readings of the folder: a fraction of a pack
                workers = writers(faulty)
            if sweep.poll() is None and workers:
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(workers), signal.SIGKILL)
        sweep.kill()
        output = wait_for_output(sweep)
        assert "Traceback" not in output, output
        wait_until(lambda: all(has_ended(pid) for pid in writers(faulty)))
        states = read_states(faulty.folder)
        assert kept.items() <= {cell: s.attempt for cell, s in states.items()}.items()
        kept = {cell: s.attempt for cell, s in states.items() if s.outcome == "ok"}
    second_run = rerun(faulty, *WORDS, cells=CELLS)
    assert second_run.startswith("exit 0")
    states = read_states(faulty.folder)
    assert kept.items() <= {cell: s.attempt for cell, s in states.items()}.items()
