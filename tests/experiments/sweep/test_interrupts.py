"""Signals: deferred while processes start, and handled in a job whose lease is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

# Each script ends with exit status 0 if no signal is lost. Signals of the process are blocked or
# handled, so each runs in a process of its own.
SETUP = """
import os, signal
from experiments.sweep.interrupts import Interrupted, defer_interrupts, interruptible
from experiments.sweep.slurm.preemption import PreemptionHandler, block_signals

def blocked():
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())
"""


def run_script(text: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", SETUP + text],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.returncode == 0, process.stderr


def test_a_deferred_signal_is_raised_at_the_end_of_the_block() -> None:
    run_script("""
for number in (signal.SIGINT, signal.SIGTERM):
    ended = False
    try:
        with interruptible(), defer_interrupts():
            os.kill(os.getpid(), number)
            ended = True
    except Interrupted as stop:
        assert (stop.number, ended, blocked()) == (number, True, set())
    else:
        raise AssertionError
""")


def test_a_deferred_signal_is_raised_although_the_block_fails() -> None:
    run_script("""
try:
    with interruptible(), defer_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError
except Interrupted as stop:
    assert isinstance(stop.__context__, ValueError)
    assert not blocked()
else:
    raise AssertionError
""")


def test_a_signal_after_the_lease_is_lost_ends_the_grace_period(tmp_path: Path) -> None:
    run_script(f"""
from pathlib import Path
block_signals()
handler = PreemptionHandler(Path({str(tmp_path / "revoked")!r}), grace=0.0)
os.kill(os.getpid(), {int(signal.SIGTERM)})
handler.heartbeat()  # cannot write the file that stops the workers
try:
    handler.heartbeat()
except Interrupted:
    pass
else:
    raise AssertionError
""")
