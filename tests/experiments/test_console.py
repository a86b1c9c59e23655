"""A sweep whose output nobody reads to the end."""

import subprocess
import sys
from pathlib import Path

from analysis import load

TINY = "model=linear data.n_train=64 data.n_test=32 probe=none train.steps=3 runner=inline"


def test_a_sweep_goes_on_when_its_reader_has_seen_enough(tmp_path: Path) -> None:
    """As `... | head -1`: the pipe is closed while the sweep has lines to print."""
    words = [*TINY.split(), "seed=range(3)", "sweep.name=s", f"sweep.results={tmp_path}"]
    command = [sys.executable, "-m", "experiments.run", "-m", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sweep:
        assert sweep.stdout is not None
        assert b"3 missing" in sweep.stdout.readline()
        sweep.stdout.close()
        _, said = sweep.communicate()
    assert (sweep.returncode, said) == (0, b"")
    assert list(load("s", tmp_path).cells["outcome"]) == ["ok"] * 3
