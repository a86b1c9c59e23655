"""A process that is killed loses no step that it had kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from parts import words

HERE = Path(__file__).parent
STEPS = 1000
PATIENCE = 300  # seconds; far above what it takes


def started(folder: Path, name: str, config: dict) -> subprocess.Popen[str]:
    command = [sys.executable, HERE / "kept_process.py", folder, name, json.dumps(config)]
    paths = [str(HERE), str(HERE.parents[2])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def steps(folder: Path, name: str) -> list[int]:
    path = folder / name
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def killed(process: subprocess.Popen[str], folder: Path, name: str, many: int) -> list[int]:
    """The steps that a process took before it was killed, so many at least."""
    began = time.monotonic()
    while len(steps(folder, name)) < many:
        assert process.poll() is None
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9
    return steps(folder, name)


@pytest.mark.slow
def test_a_killed_cell_takes_no_step_again_that_was_kept(cell_config, tmp_path):
    config = cell_config(
        *words("model=mlp", "optim=adam", f"train.steps={STEPS}", "train.evaluate_every=30")
    )
    # Written before a step is taken, and kept after it: the last one written may be done or not.
    first = 0
    for part in ("one", "two", "three"):
        taken = killed(started(tmp_path, part, config), tmp_path, part, 40)
        assert taken == list(range(taken[0], taken[0] + len(taken)))
        assert taken[0] in (first, first + 1)
        first = taken[-1]
    assert 100 < first < STEPS - 1, "it was not killed in the middle"
    last = started(tmp_path, "last", config)
    said, _ = last.communicate(timeout=PATIENCE)
    assert json.loads(said) == {"ignored": None, "failed": None}
    rest = steps(tmp_path, "last")
    assert rest[0] in (first, first + 1)
    assert rest == list(range(rest[0], STEPS))

    (tmp_path / "kept").unlink()
    assert started(tmp_path, "whole", config).wait(PATIENCE) == 0
    assert (tmp_path / "last-bits").read_text() == (tmp_path / "whole-bits").read_text()
    assert steps(tmp_path, "whole") == list(range(STEPS))
