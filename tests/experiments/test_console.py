"""A sweep whose output is piped to a command that stops reading."""

import subprocess
import sys
from pathlib import Path

from analysis import load

TINY = "model=linear data.n_train=64 data.n_test=32 probe=none train.steps=3 runner=inline"


def test_a_sweep_continues_after_a_broken_pipe(tmp_path: Path) -> None:
    """Close the pipe while the sweep has lines to print, like `... | head -1`."""
    overrides = [*TINY.split(), "seed=range(3)", "sweep.name=s", f"sweep.results={tmp_path}"]
    command = [sys.executable, "-m", "experiments.run", "-m", *overrides]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sweep:
        assert sweep.stdout is not None
        assert b"3 missing" in sweep.stdout.readline()
        sweep.stdout.close()
        _, errors = sweep.communicate()
    assert (sweep.returncode, errors) == (0, b"")
    assert list(load("s", tmp_path).cells["outcome"]) == ["ok"] * 3
