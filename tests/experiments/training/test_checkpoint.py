"""A cell that is stopped and resumed gives the same bits as an uninterrupted one."""

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
from parts import (
    CPU,
    CatchingExceptions,
    bits,
    recorded_steps,
    run_in_parts,
    small_overrides,
    stopping_checkpointer,
)

from experiments.cell import CellRun, run_cell
from experiments.inputs import prepared
from experiments.schema import build_cell
from experiments.stack import run_stack
from experiments.training.checkpoint import CellCheckpoint, Checkpointer, Stopped
from experiments.training.loader import BatchOrder

pytestmark = pytest.mark.usefixtures("worker_settings")
HERE = Path(__file__).parent
RESNET = "model=resnet model.depth=8 model.width=3 probe.size=4 train.steps=12"
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
        ("model=mlp activation._target_=parts.Stateful", (9, 9)),
        (f"{RESNET} model.norm=batch model.zero_init=true probe.steps=[5] optim=adam", (1, 6)),
        (f"{RESNET} model.norm=none model.scalars=multiplier init=skipinit probe.steps=[5]", (7,)),
    ],
    ids=str,
)
def test_a_resumed_cell_equals_an_uninterrupted_one(cell_config, tmp_path, case, stops):
    config = cell_config(*small_overrides(*case.split()))
    with recorded_steps() as uninterrupted_steps:
        uninterrupted = run_cell(config, CPU)
    with recorded_steps() as resumed_steps:
        resumed = run_in_parts(config, tmp_path / "checkpoint", stops)
    assert bits(resumed) == bits(uninterrupted)
    assert resumed_steps == uninterrupted_steps == list(range(len(resumed_steps)))


@pytest.fixture(scope="module")
def mlp(cell_config):
    case = "model=mlp model.width=8 optim=adam optim.lr=0.01 probe.steps=[5,17]"
    return cell_config(*small_overrides(*case.split(), "train.evaluate_every=4"))


@pytest.fixture(scope="module")
def mlp_uninterrupted(mlp) -> str:
    return bits(run_cell(mlp, CPU))


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(stops=st.lists(st.integers(1, 8), max_size=3))  # their sum is below the draws and steps
@example(stops=[26])  # after the last step
def test_a_cell_can_be_stopped_anywhere(mlp, mlp_uninterrupted, tmp_path_factory, stops):
    with recorded_steps() as steps:
        resumed = run_in_parts(mlp, tmp_path_factory.mktemp("cell") / "checkpoint", stops)
    assert bits(resumed) == mlp_uninterrupted
    assert steps == list(range(24))


@pytest.mark.parametrize("stop", [2, 7, 8, 12, 14])
def test_a_stop_does_not_change_the_step_of_divergence(cell_config, tmp_path, monkeypatch, stop):
    """Stop before and after step 7, which diverges (detected at step 16)."""
    corrupt = ("data.corrupt.share=0.011", "data.corrupt.kind=missing", "scaling=unit")
    config = cell_config(*small_overrides("model=mlp", "probe.draws=0", *corrupt))
    data, _ = prepared(build_cell(config), CPU)
    bad = data.train.x.isnan().flatten(1).any(1)
    assert bad.sum() == 1

    def bad_at_7(order: BatchOrder, step: int):
        return (bad if step == 7 else ~bad).nonzero()[:, 0].repeat(24)[:24]

    monkeypatch.setattr(BatchOrder, "at", bad_at_7)
    uninterrupted = run_cell(config, CPU)
    row = uninterrupted.row
    assert (row["outcome"], row["outcome_step"]) == ("diverged", 7)
    assert bits(run_in_parts(config, tmp_path / "checkpoint", [stop])) == bits(uninterrupted)


def test_a_cell_without_training_resumes_at_the_next_draw(cell_config, tmp_path, monkeypatch):
    overrides = ("train.steps=0", "probe.draws=6", "probe.histograms=true")
    config = cell_config(*small_overrides(*overrides))
    uninterrupted = run_cell(config, CPU)
    draws: list[int] = []
    measure = CellRun.measure
    monkeypatch.setattr(
        CellRun, "measure", lambda self, draw: draws.append(draw) or measure(self, draw)
    )
    assert bits(run_in_parts(config, tmp_path / "checkpoint", [2, 1])) == bits(uninterrupted)
    assert draws == [5, 4, 3, 2, 1, 0]


def test_seconds_add_up(cell_config, tmp_path, monkeypatch):
    config, path = cell_config(*small_overrides("model=mlp")), tmp_path / "checkpoint"
    save = Checkpointer.save

    def save_with_large_times(self: Checkpointer, checkpoint: CellCheckpoint) -> None:
        train_state = replace(checkpoint.train_state, seconds=2e6)
        save(self, replace(checkpoint, seconds=1e6, train_state=train_state))

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", save_with_large_times)
        with pytest.raises(Stopped):
            run_cell(config, CPU, checkpointer=stopping_checkpointer(path, 9))
    started = time.perf_counter()
    seconds = run_cell(config, CPU, checkpointer=Checkpointer(path)).row["seconds"]
    assert 3e6 < seconds <= 3e6 + time.perf_counter() - started


def test_progress_starts_at_the_resumed_step(cell_config, tmp_path):
    config = cell_config(*small_overrides("model=mlp", "probe.draws=0"))
    with pytest.raises(Stopped):
        run_cell(config, CPU, checkpointer=stopping_checkpointer(tmp_path / "checkpoint", 9))
    calls: list[tuple[int, int]] = []
    run_cell(config, CPU, lambda *at: calls.append(at), Checkpointer(tmp_path / "checkpoint"))
    assert calls == [(0, 24), (9, 24), (16, 24), (24, 24)]


@pytest.mark.parametrize(("every", "writes"), [(0.0, 26), (1e9, 0)])
def test_a_cell_is_saved_at_the_given_interval(cell_config, tmp_path, monkeypatch, every, writes):
    saved: list[CellCheckpoint] = []
    monkeypatch.setattr(Checkpointer, "save", lambda self, checkpoint: saved.append(checkpoint))
    config = cell_config(*small_overrides("model=mlp"))
    run_cell(config, CPU, checkpointer=Checkpointer(tmp_path / "checkpoint", every))
    assert len(saved) == writes  # two draws and 24 steps


def test_stop_is_polled_at_the_given_interval(cell_config, tmp_path, monkeypatch):
    """Use a clock that advances by one second per step."""
    polled: list[int] = []
    with recorded_steps() as steps:
        clock = SimpleNamespace(monotonic=lambda: float(len(steps)))
        monkeypatch.setattr("experiments.training.checkpoint.time", clock)
        checkpointer = Checkpointer(
            tmp_path / "checkpoint", stop=lambda: bool(polled.append(len(steps))), poll_every=10
        )
        config = cell_config(*small_overrides("model=mlp", "probe.draws=0"))
        run_cell(config, CPU, checkpointer=checkpointer)
    assert polled == [1, 11, 21]


def test_except_exception_in_a_network_does_not_catch_stopped(cell_config, monkeypatch, tmp_path):
    activation = "activation._target_=parts.CatchingExceptions"
    case = ("model=mlp", "model.depth=2", "probe.draws=0", activation)
    config = cell_config(*small_overrides(*case))
    with pytest.raises(Stopped):
        run_cell(config, CPU, checkpointer=stopping_checkpointer(tmp_path / "checkpoint", 3))
    monkeypatch.setattr(CatchingExceptions, "passes", 0)
    with pytest.raises(Stopped):
        run_cell(config, CPU)
    with pytest.raises(Stopped):
        list(run_stack([config], CPU, checkpointers=[stopping_checkpointer(tmp_path / "other", 3)]))


# --- killed processes -------------------------------------------------------------------------

TIMEOUT = 300  # seconds


def start_process(folder: Path, name: str, config: dict) -> subprocess.Popen[str]:
    command = [sys.executable, HERE / "saving_process.py", folder, name, json.dumps(config)]
    paths = [str(HERE), str(HERE.parents[2])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def read_steps(folder: Path, name: str) -> list[int]:
    path = folder / name
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def kill_after(process: subprocess.Popen[str], folder: Path, name: str, n_steps: int) -> list[int]:
    """Kill a process after at least `n_steps` steps; return the numbers of its steps."""
    started = time.monotonic()
    while len(read_steps(folder, name)) < n_steps:
        assert process.poll() is None
        assert time.monotonic() - started < TIMEOUT
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9
    return read_steps(folder, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "n_steps"), [("model=mlp", 1000), ("model=resnet model.depth=8 model.width=2", 300)]
)
def test_a_killed_cell_repeats_no_saved_step(cell_config, tmp_path, model, n_steps):
    overrides = ("optim=adam", f"train.steps={n_steps}", "train.evaluate_every=30")
    config = cell_config(*small_overrides(*model.split(), *overrides))
    # A number is written before its step and saved after it, so the last step may be saved or not.
    first = 0
    for name in ("one", "two", "three"):
        steps = kill_after(start_process(tmp_path, name, config), tmp_path, name, 40)
        assert steps == list(range(steps[0], steps[0] + len(steps)))
        assert steps[0] in (first, first + 1)
        first = steps[-1]
    assert 100 < first < n_steps - 1, "the process was not killed during training"
    last = start_process(tmp_path, "last", config)
    output, _ = last.communicate(timeout=TIMEOUT)
    assert json.loads(output) == {"load_error": None, "save_error": None}
    rest = read_steps(tmp_path, "last")
    assert rest[0] in (first, first + 1)
    assert rest == list(range(rest[0], n_steps))

    (tmp_path / "checkpoint").unlink()
    assert start_process(tmp_path, "uninterrupted", config).wait(TIMEOUT) == 0
    assert (tmp_path / "last-bits").read_text() == (tmp_path / "uninterrupted-bits").read_text()
    assert read_steps(tmp_path, "uninterrupted") == list(range(n_steps))
