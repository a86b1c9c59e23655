"""A cell that is stopped and resumed is, to the bit, the cell that is run at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from parts import CPU, Swallowing, bits, in_parts, steps_counted, stopping, words

from experiments.cell import CellRun, run_cell
from experiments.inputs import prepared
from experiments.schema import build_cell
from experiments.stack import run_stack
from experiments.training.checkpoint import CellCheckpoint, Checkpointer, Stopped
from experiments.training.loader import BatchOrder

pytestmark = pytest.mark.usefixtures("as_in_workers")
HERE = Path(__file__).parent
ALEXNET = "model=alexnet model.width=4 model.dense=8 data.side=15 probe.draws=1 train.steps=12"


@pytest.mark.parametrize(
    ("case", "stops"),
    [
        ("optim=sgd optim.momentum=0.9 optim.weight_decay=0.01 schedule=cosine", (1, 1, 1, 8, 13)),
        ("optim=adam schedule=warmup optim.lr=0.01 train.epochs=5 train.steps=null", (9, 9)),
        ("optim=adamw schedule=step clip=norm optim.lr=0.01 init=lsuv", (5,)),
        ("train.evaluate_every=5 probe.steps=[1,7,16,24] probe.histograms=true", (1, 1, 8, 13)),
        ("model=mlp model.norm=batch probe.draws=3 probe.steps=[9] probe.sharpness=true", (9, 9)),
        (f"{ALEXNET} model.dropout=0.5 clip=value train.dtype=float64 optim=adam", (7,)),
        (f"{ALEXNET} model.norm=batch model.lrn=true train.dtype=bfloat16", (7,)),
        ("model=plain model.depth=3 model.norm=layer train.dtype=float16 probe.draws=0", (13,)),
        ("model=mlp activation._target_=parts.Remembering", (9, 9)),
    ],
    ids=str,
)
def test_a_cell_in_parts_is_the_cell_at_once(cell_config, tmp_path, case, stops):
    config = cell_config(*words(*case.split()))
    with steps_counted() as at_once:
        whole = run_cell(config, CPU)
    with steps_counted() as taken:
        parts = in_parts(config, tmp_path / "kept", stops)
    assert bits(parts) == bits(whole)
    assert taken == at_once == list(range(len(at_once)))


@pytest.fixture(scope="module")
def mlp(cell_config):
    case = "model=mlp model.width=8 optim=adam optim.lr=0.01 probe.steps=[5,17]"
    return cell_config(*words(*case.split(), "train.evaluate_every=4"))


@pytest.fixture(scope="module")
def mlp_at_once(mlp) -> str:
    return bits(run_cell(mlp, CPU))


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(stops=st.lists(st.integers(1, 8), max_size=3))  # fewer in all than draws and steps
@example(stops=[26])  # after the last step
def test_wherever_it_is_stopped(mlp, mlp_at_once, tmp_path_factory, stops):
    with steps_counted() as taken:
        parts = in_parts(mlp, tmp_path_factory.mktemp("kept") / "kept", stops)
    assert bits(parts) == mlp_at_once
    assert taken == list(range(24))


@pytest.mark.parametrize("stop", [2, 7, 8, 12, 14])
def test_divergence_after_a_stop_is_that_without_it(cell_config, tmp_path, monkeypatch, stop):
    """Step 7 is bad, which shows at step 16: some stops lie before, some after it."""
    spoilt = ("data.corrupt.share=0.011", "data.corrupt.kind=missing", "scaling=unit")
    config = cell_config(*words("model=mlp", "probe.draws=0", *spoilt))
    data, _ = prepared(build_cell(config), CPU)
    bad = data.train.x.isnan().flatten(1).any(1)
    assert bad.sum() == 1

    def bad_at_7(order: BatchOrder, step: int):
        return (bad if step == 7 else ~bad).nonzero()[:, 0].repeat(24)[:24]

    monkeypatch.setattr(BatchOrder, "at", bad_at_7)
    whole = run_cell(config, CPU)
    assert (whole.row["outcome"], whole.row["outcome_step"]) == ("diverged", 7)
    assert bits(in_parts(config, tmp_path / "kept", [stop])) == bits(whole)


def test_a_cell_that_only_probes_resumes_at_the_draw_it_lacks(cell_config, tmp_path, monkeypatch):
    config = cell_config(*words("train.steps=0", "probe.draws=6", "probe.histograms=true"))
    whole = run_cell(config, CPU)
    measured: list[int] = []
    measure = CellRun.measure
    monkeypatch.setattr(
        CellRun, "measure", lambda self, draw: measured.append(draw) or measure(self, draw)
    )
    assert bits(in_parts(config, tmp_path / "kept", [2, 1])) == bits(whole)
    assert measured == [5, 4, 3, 2, 1, 0]


def test_seconds_add_up(cell_config, tmp_path, monkeypatch):
    config, path, save = cell_config(*words("model=mlp")), tmp_path / "kept", Checkpointer.save

    def save_as_if_long(self: Checkpointer, kept: CellCheckpoint) -> None:
        train_state = replace(kept.train_state, seconds=2e6)
        save(self, replace(kept, seconds=1e6, train_state=train_state))

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_as_if_long)
        with pytest.raises(Stopped):
            run_cell(config, CPU, checkpointer=stopping(path, 9))
    started = time.perf_counter()
    seconds = run_cell(config, CPU, checkpointer=Checkpointer(path)).row["seconds"]
    assert 3e6 < seconds <= 3e6 + time.perf_counter() - started


def test_progress_starts_at_the_step_that_is_resumed(cell_config, tmp_path):
    config = cell_config(*words("model=mlp", "probe.draws=0"))
    with pytest.raises(Stopped):
        run_cell(config, CPU, checkpointer=stopping(tmp_path / "kept", 9))
    calls: list[tuple[int, int]] = []
    run_cell(config, CPU, lambda *at: calls.append(at), Checkpointer(tmp_path / "kept"))
    assert calls == [(0, 24), (9, 24), (16, 24), (24, 24)]


@pytest.mark.parametrize(("every", "writes"), [(0.0, 26), (1e9, 0)])
def test_a_cell_is_saved_every_so_many_seconds(cell_config, tmp_path, monkeypatch, every, writes):
    saved: list[CellCheckpoint] = []
    monkeypatch.setattr(Checkpointer, "save", lambda self, kept: saved.append(kept))
    config = cell_config(*words("model=mlp"))
    run_cell(config, CPU, checkpointer=Checkpointer(tmp_path / "kept", every))
    assert len(saved) == writes  # two draws and 24 steps


def test_stop_is_polled_now_and_then(cell_config, tmp_path, monkeypatch):
    """On a clock that goes on by a second a step: it may take a look at a file, over a network."""
    polled: list[int] = []
    with steps_counted() as taken:
        clock = SimpleNamespace(monotonic=lambda: float(len(taken)))
        monkeypatch.setattr("experiments.training.checkpoint.time", clock)
        checkpointer = Checkpointer(
            tmp_path / "kept", stop=lambda: bool(polled.append(len(taken))), poll_every=10
        )
        config = cell_config(*words("model=mlp", "probe.draws=0"))
        run_cell(config, CPU, checkpointer=checkpointer)
    assert polled == [1, 11, 21]


def test_no_network_catches_the_stop(cell_config, monkeypatch, tmp_path):
    """Not even where it is raised in the middle of the network's own code."""
    case = ("model=mlp", "model.depth=2", "probe.draws=0", "activation._target_=parts.Swallowing")
    config = cell_config(*words(*case))
    with pytest.raises(Stopped):
        run_cell(config, CPU, checkpointer=stopping(tmp_path / "kept", 3))
    monkeypatch.setattr(Swallowing, "passes", 0)
    with pytest.raises(Stopped):
        run_cell(config, CPU)
    with pytest.raises(Stopped):
        list(run_stack([config], CPU, checkpointers=[stopping(tmp_path / "other", 3)]))


# --- killed -----------------------------------------------------------------------------------

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
    """Kill a process after so many steps at least; return the steps that it took."""
    began = time.monotonic()
    while len(steps(folder, name)) < many:
        assert process.poll() is None
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9
    return steps(folder, name)


@pytest.mark.slow
def test_a_killed_cell_takes_no_step_again_that_was_saved(cell_config, tmp_path):
    config = cell_config(
        *words("model=mlp", "optim=adam", f"train.steps={STEPS}", "train.evaluate_every=30")
    )
    # Written before a step is taken, and saved after it: the last one written may be done or not.
    first = 0
    for part in ("one", "two", "three"):
        taken = killed(started(tmp_path, part, config), tmp_path, part, 40)
        assert taken == list(range(taken[0], taken[0] + len(taken)))
        assert taken[0] in (first, first + 1)
        first = taken[-1]
    assert 100 < first < STEPS - 1, "it was not killed in the middle"
    last = started(tmp_path, "last", config)
    printed, _ = last.communicate(timeout=PATIENCE)
    assert json.loads(printed) == {"load_error": None, "save_error": None}
    rest = steps(tmp_path, "last")
    assert rest[0] in (first, first + 1)
    assert rest == list(range(rest[0], STEPS))

    (tmp_path / "kept").unlink()
    assert started(tmp_path, "whole", config).wait(PATIENCE) == 0
    assert (tmp_path / "last-bits").read_text() == (tmp_path / "whole-bits").read_text()
    assert steps(tmp_path, "whole") == list(range(STEPS))
