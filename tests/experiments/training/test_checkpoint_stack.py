"""A stack that is stopped and resumed gives the same bits as an uninterrupted one."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from parts import CPU, bits, recorded_steps, run_stack_in_parts, small_overrides, stop_after

from experiments.cell import CellRun, run_cell
from experiments.stack import run_stack
from experiments.training.checkpoint import CellCheckpoint, Checkpointer, Stopped
from experiments.training.engines import StackedEngine

pytestmark = pytest.mark.usefixtures("worker_settings")
MLP = ("model=mlp", "model.depth=2", "model.width=8", "loss=mse", "probe.draws=1")
RATES = (0.1, 20, 0.5, 0.02)  # the second diverges at step 10, detected at step 16


@pytest.fixture
def configs(cell_config):
    def make(*case: str, rates=RATES) -> list[dict]:
        varying = [(f"optim.lr={lr}", f"seed={seed}") for seed, lr in enumerate(rates)]
        return [cell_config(*small_overrides(*case, *overrides)) for overrides in varying]

    return make


@pytest.fixture
def checkpointers(tmp_path):
    def make(count: int, **settings) -> list[Checkpointer]:
        return [Checkpointer(tmp_path / str(i), **settings) for i in range(count)]

    return make


def all_bits(results) -> dict[int, str]:
    return {index: bits(result) for index, result in dict(results).items()}


PROBED = (*MLP, "optim.momentum=0.5", "train.evaluate_every=5", "probe.steps=[3,20]")
RESNET = ("model=resnet", "model.depth=8", "model.width=2", "train.steps=12", "probe.draws=1")
ALEXNET = ("model=alexnet", "data.side=15", "model.width=4", "model.dense=8", "train.steps=18")


@pytest.mark.parametrize(
    ("case", "rates", "stops"),
    [
        (PROBED, RATES, (1, 4, 7, 5)),
        (PROBED, RATES, (13, 13)),  # between the divergence and its detection
        (("model=two_layer", "optim=adam", "model.norm=batch"), (0.01, 0.002, 0.03), (6, 20)),
        ((*ALEXNET, "model.dropout=0.5"), (0.01, 1e9), (13,)),
        ((*RESNET, "model.shortcut=B"), (0.1, 0.01), (6,)),
    ],
    ids=["mlp", "mlp found later", "two_layer", "alexnet", "resnet"],
)
def test_a_resumed_stack_equals_an_uninterrupted_one(configs, tmp_path, case, rates, stops):
    cells = configs(*case, rates=rates)
    with recorded_steps() as uninterrupted_steps:
        uninterrupted = all_bits(run_stack(cells, CPU))
    with recorded_steps() as resumed_steps:
        resumed = all_bits(run_stack_in_parts(cells, tmp_path, stops))
    assert resumed == uninterrupted
    assert resumed_steps == uninterrupted_steps == list(range(len(resumed_steps)))


def test_a_network_of_the_stack_diverges(configs):
    """Check the assumption of the tests above."""
    rows = [result.row for _, result in run_stack(configs(*MLP), CPU)]
    assert [row["outcome"] for row in rows] == ["diverged", "ok", "ok", "ok"]
    assert rows[0]["outcome_step"] == 10


def test_cells_saved_at_different_steps_resume_at_their_own_step(configs, checkpointers, tmp_path):
    """Simulate a process that was killed between writing two checkpoints."""
    cells = configs(*MLP, rates=(0.1, 0.5, 0.02, 0.3))
    paths = [checkpointer.path for checkpointer in checkpointers(4)]
    uninterrupted = all_bits(run_stack(cells, CPU))

    def stop_after_polls(polls: int) -> None:
        stopping = checkpointers(4, stop=stop_after(polls), poll_every=0)
        with pytest.raises(Stopped):
            list(run_stack(cells, CPU, checkpointers=stopping))

    stop_after_polls(4 + 9)
    for i in (0, 2):
        shutil.copy(paths[i], tmp_path / f"early-{i}")
    stop_after_polls(6)
    for i in (0, 2):
        shutil.copy(tmp_path / f"early-{i}", paths[i])
    paths[3].unlink()
    with recorded_steps() as steps:
        resumed = all_bits(run_stack(cells, CPU, checkpointers=checkpointers(4)))
    assert resumed == uninterrupted
    assert steps == [*range(15, 24), *range(9, 24), *range(24)]


def test_remaining_networks_are_saved_at_the_same_interval(configs, checkpointers, monkeypatch):
    """Use a clock that advances by one second per step; the first network leaves at step 16."""
    steps: dict[str, list[int]] = {name: [] for name in "0123"}
    save = Checkpointer.save

    def recording_save(self: Checkpointer, checkpoint: CellCheckpoint) -> None:
        steps[self.path.name].append(checkpoint.train_state.step)
        save(self, checkpoint)

    cells = configs(*MLP, rates=(20, 0.1, 0.5, 0.02))
    with recorded_steps() as all_steps:
        clock = SimpleNamespace(monotonic=lambda: float(len(all_steps)))
        monkeypatch.setattr("experiments.training.checkpoint.time", clock)
        monkeypatch.setattr(Checkpointer, "save", recording_save)
        list(run_stack(cells, CPU, checkpointers=checkpointers(4, every=5)))
    assert steps["0"] == [5, 10, 15]
    assert steps["1"] == steps["2"] == steps["3"] == [5, 10, 15, 20]


def test_the_size_of_a_checkpoint_is_independent_of_the_stack(configs, checkpointers, tmp_path):
    case = ("model=mlp", "model.width=128", "probe.draws=0", "train.steps=2")
    cells, used = configs(*case, rates=(0.1,) * 8), checkpointers(8, every=0)
    list(run_stack(cells, CPU, checkpointers=used))
    serial = Checkpointer(tmp_path / "serial", every=0)
    run_cell(cells[0], CPU, checkpointer=serial)
    assert all(c.path.stat().st_size < 1.1 * serial.path.stat().st_size for c in used)


def test_halves_of_a_stack_resume_from_their_checkpoints(configs, checkpointers, monkeypatch):
    cells = configs(*MLP, rates=(0.1, 0.5, 0.02, 0.3))
    uninterrupted = all_bits(run_stack(cells, CPU))
    step = StackedEngine.step

    def failing(self: StackedEngine, number: int):
        if number == 10 and len(self.loaders) == 4:
            raise MemoryError
        return step(self, number)

    monkeypatch.setattr(StackedEngine, "step", failing)
    with recorded_steps() as steps:
        halves = all_bits(run_stack(cells, CPU, checkpointers=checkpointers(4, every=0)))
    assert halves == uninterrupted
    assert steps == [*range(11), *range(10, 24), *range(10, 24)]


def test_saved_draws_are_not_measured_again(configs, tmp_path, monkeypatch):
    cells = configs(*MLP[:-1], "probe.draws=3")
    uninterrupted = all_bits(run_stack(cells, CPU))
    draws: list[tuple[int, int]] = []
    measure = CellRun.measure

    def recording_measure(self: CellRun, draw: int):
        draws.append((self.cell.seed, draw))
        return measure(self, draw)

    monkeypatch.setattr(CellRun, "measure", recording_measure)
    assert all_bits(run_stack_in_parts(cells, tmp_path, [4, 3])) == uninterrupted
    assert draws == [(seed, draw) for seed in range(4) for draw in (2, 1, 0)]


def test_a_checkpoint_of_one_engine_is_not_used_by_the_other(configs, checkpointers):
    (config,), (used,) = configs(*MLP, rates=(0.1,)), checkpointers(1, every=0)
    list(run_stack([config], CPU, checkpointers=[used]))
    with recorded_steps() as steps:
        run_cell(config, CPU, checkpointer=used)
    assert used.load_error == "saved with another engine"
    assert steps == list(range(24))
