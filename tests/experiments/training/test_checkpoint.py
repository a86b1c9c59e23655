"""A cell that is run in parts is, to the bit, the cell that is run at once."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import CPU, Swallowing, after, bits, in_parts, steps_counted, words

from experiments.begun import Begun
from experiments.cell import prepared, run_cell
from experiments.schema import build_cell
from experiments.stack import run_stack
from experiments.training.batches import Batches
from experiments.training.checkpoint import Keeper, Stopped
from experiments.training.progress import Kept

pytestmark = pytest.mark.usefixtures("as_in_workers")
ALEXNET = "model=alexnet data.side=15 probe.draws=1 optim.lr=0.01"


@pytest.mark.parametrize("stops", [(1, 1, 1, 8, 13), (9, 9)], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        "optim=sgd optim.momentum=0.9 optim.weight_decay=0.01 schedule=cosine",
        "optim=adam schedule=warmup optim.lr=0.01 train.epochs=5 train.steps=null",
        "optim=adamw schedule=step clip=norm optim.lr=0.01 init=lsuv",
        "train.evaluate_every=5 probe.steps=[1,7,16,24] probe.histograms=true",
        "model=mlp probe.steps=[9] probe.sharpness=true probe.draws=3",
        "model=mlp model.norm=batch probe.draws=0",
        f"{ALEXNET} model.dropout=0.5 clip=value",
        f"{ALEXNET} model.dropout=0.5 train.dtype=float64 optim=adam",
        f"{ALEXNET} model.norm=batch model.lrn=true train.dtype=bfloat16 optim.momentum=0.9",
        "model=plain model.norm=layer train.dtype=float16",
        "model=mlp activation._target_=parts.Remembering",
    ],
)
def test_a_cell_in_parts_is_the_cell_at_once(cell_config, tmp_path, case, stops):
    config = cell_config(*words(*case.split()))
    with steps_counted() as at_once:
        whole = run_cell(config, CPU)
    with steps_counted() as taken:
        parts = in_parts(config, tmp_path / "kept", stops)
    assert bits(parts) == bits(whole)
    assert taken == at_once == list(range(len(at_once)))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(stops=st.lists(st.integers(1, 30), max_size=8))
def test_wherever_it_is_stopped(cell_config, tmp_path_factory, stops):
    case = "model=mlp model.width=8 optim=adam optim.lr=0.01 probe.steps=[5,17]"
    config = cell_config(*words(*case.split(), "train.evaluate_every=4"))
    with steps_counted() as taken:
        parts = in_parts(config, tmp_path_factory.mktemp("kept") / "kept", stops)
    assert bits(parts) == bits(run_cell(config, CPU))
    assert taken == list(range(24))


@pytest.mark.parametrize("stop", [2, 7, 8, 12, 14])
def test_divergence_after_a_stop_is_that_without_it(cell_config, tmp_path, monkeypatch, stop):
    """Step 7 is bad, which shows at step 16: some stops lie before, some after it."""
    spoilt = ("data.corrupt.share=0.011", "data.corrupt.kind=missing", "scaling=unit")
    config = cell_config(*words("model=mlp", "probe.draws=0", *spoilt))
    data, _ = prepared(build_cell(config), CPU)
    bad = data.train.x.isnan().flatten(1).any(1)
    assert bad.sum() == 1
    monkeypatch.setattr(
        Batches, "at", lambda _, step: (bad if step == 7 else ~bad).nonzero()[:, 0].repeat(24)[:24]
    )
    whole = run_cell(config, CPU)
    assert (whole.row["outcome"], whole.row["outcome_step"]) == ("diverged", 7)
    assert bits(in_parts(config, tmp_path / "kept", [stop])) == bits(whole)


def test_a_cell_that_only_probes_goes_on_at_the_draw_it_lacks(cell_config, tmp_path, monkeypatch):
    config = cell_config(*words("train.steps=0", "probe.draws=6", "probe.histograms=true"))
    whole = run_cell(config, CPU)
    measured: list[int] = []
    measure = Begun.measure
    monkeypatch.setattr(
        Begun, "measure", lambda self, draw: measured.append(draw) or measure(self, draw)
    )
    assert bits(in_parts(config, tmp_path / "kept", [2, 1])) == bits(whole)
    assert measured == [5, 4, 3, 2, 1, 0]


def test_seconds_add_up(cell_config, tmp_path, monkeypatch):
    config, path, save = cell_config(*words("model=mlp")), tmp_path / "kept", Keeper.save

    def save_as_if_long(self: Keeper, kept: Kept) -> None:
        save(self, replace(kept, seconds=1e6, progress=replace(kept.progress, seconds=2e6)))

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "save", save_as_if_long)
        with pytest.raises(Stopped):
            run_cell(config, CPU, keeper=Keeper(path, stop=after(9), ask_every=0))
    began = time.perf_counter()
    seconds = run_cell(config, CPU, keeper=Keeper(path)).row["seconds"]
    assert 3e6 < seconds <= 3e6 + time.perf_counter() - began


def test_progress_begins_where_the_cell_goes_on(cell_config, tmp_path):
    config = cell_config(*words("model=mlp", "probe.draws=0"))
    with pytest.raises(Stopped):
        run_cell(config, CPU, keeper=Keeper(tmp_path / "kept", stop=after(9), ask_every=0))
    told: list[tuple[int, int]] = []
    run_cell(config, CPU, lambda *at: told.append(at), Keeper(tmp_path / "kept"))
    assert told == [(0, 24), (9, 24), (16, 24), (24, 24)]


@pytest.mark.parametrize(("every", "writes"), [(0.0, 26), (1e9, 0)])
def test_a_cell_is_kept_every_so_many_seconds(cell_config, tmp_path, monkeypatch, every, writes):
    saved: list[Kept] = []
    monkeypatch.setattr(Keeper, "save", lambda self, kept: saved.append(kept))
    run_cell(cell_config(*words("model=mlp")), CPU, keeper=Keeper(tmp_path / "kept", every))
    assert len(saved) == writes  # two draws and 24 steps


def test_whether_to_stop_is_asked_now_and_then(cell_config, tmp_path, monkeypatch):
    """On a clock that goes on by a second a step: it may take a look at a file, over a network."""
    asked: list[int] = []
    with steps_counted() as taken:
        clock = SimpleNamespace(monotonic=lambda: float(len(taken)))
        monkeypatch.setattr("experiments.training.checkpoint.time", clock)
        keeper = Keeper(
            tmp_path / "kept", stop=lambda: bool(asked.append(len(taken))), ask_every=10
        )
        run_cell(cell_config(*words("model=mlp", "probe.draws=0")), CPU, keeper=keeper)
    assert asked == [1, 11, 21]


def test_no_network_catches_the_stop(cell_config, monkeypatch, tmp_path):
    """Not even where somebody raises it in the middle of the network's own code."""
    case = ("model=mlp", "model.depth=2", "probe.draws=0", "activation._target_=parts.Swallowing")
    config = cell_config(*words(*case))
    with pytest.raises(Stopped):
        run_cell(config, CPU, keeper=Keeper(tmp_path / "kept", stop=after(3), ask_every=0))
    monkeypatch.setattr(Swallowing, "passes", 0)
    with pytest.raises(Stopped):
        run_cell(config, CPU)
    with pytest.raises(Stopped):
        list(
            run_stack(
                [config], CPU, keepers=[Keeper(tmp_path / "other", stop=after(3), ask_every=0)]
            )
        )
