"""A stack that is stopped and resumed is, to the bit, the stack that is run at once."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from parts import CPU, after, bits, stack_in_parts, steps_counted, words

from experiments.cell import CellRun, run_cell
from experiments.stack import run_stack
from experiments.training.checkpoint import CellCheckpoint, Checkpointer, Stopped
from experiments.training.engines import StackedEngine

pytestmark = pytest.mark.usefixtures("as_in_workers")
MLP = ("model=mlp", "model.depth=2", "model.width=8", "loss=mse", "probe.draws=1")
RATES = (0.1, 20, 0.5, 0.02)  # the second diverges at step 10, which is seen at 16


@pytest.fixture
def configs(cell_config):
    def of(*case: str, rates=RATES) -> list[dict]:
        own = [(f"optim.lr={lr}", f"seed={seed}") for seed, lr in enumerate(rates)]
        return [cell_config(*words(*case, *each)) for each in own]

    return of


@pytest.fixture
def checkpointers(tmp_path):
    def of(count: int, **settings) -> list[Checkpointer]:
        return [Checkpointer(tmp_path / str(i), **settings) for i in range(count)]

    return of


def all_bits(results) -> dict[int, str]:
    return {index: bits(result) for index, result in dict(results).items()}


PROBED = (*MLP, "optim.momentum=0.5", "train.evaluate_every=5", "probe.steps=[3,20]")
ALEXNET = ("model=alexnet", "data.side=15", "model.width=4", "model.dense=8", "train.steps=18")


@pytest.mark.parametrize(
    ("case", "rates", "stops"),
    [
        (PROBED, RATES, (1, 4, 7, 5)),
        (PROBED, RATES, (13, 13)),  # between the divergence and the look that finds it
        (("model=two_layer", "optim=adam", "model.norm=batch"), (0.01, 0.002, 0.03), (6, 20)),
        ((*ALEXNET, "model.dropout=0.5"), (0.01, 1e9), (13,)),
    ],
    ids=["mlp", "mlp found later", "two_layer", "alexnet"],
)
def test_a_stack_in_parts_is_the_stack_at_once(configs, tmp_path, case, rates, stops):
    cells = configs(*case, rates=rates)
    with steps_counted() as at_once:
        whole = all_bits(run_stack(cells, CPU))
    with steps_counted() as taken:
        parts = all_bits(stack_in_parts(cells, tmp_path, stops))
    assert parts == whole
    assert taken == at_once == list(range(len(at_once)))


def test_a_network_of_the_stack_diverges(configs):
    """Else the tests above would show less than they mean to."""
    rows = [result.row for _, result in run_stack(configs(*MLP), CPU)]
    assert [row["outcome"] for row in rows] == ["diverged", "ok", "ok", "ok"]
    assert rows[0]["outcome_step"] == 10


def test_cells_that_are_saved_at_different_steps_resume_each_at_its_own(
    configs, checkpointers, tmp_path
):
    """As where a process is killed between two of the files."""
    cells = configs(*MLP, rates=(0.1, 0.5, 0.02, 0.3))
    paths = [checkpointer.path for checkpointer in checkpointers(4)]
    whole = all_bits(run_stack(cells, CPU))

    def stop_after(checks: int) -> None:
        stopped = checkpointers(4, stop=after(checks), poll_every=0)
        with pytest.raises(Stopped):
            list(run_stack(cells, CPU, checkpointers=stopped))

    stop_after(4 + 9)
    for i in (0, 2):
        shutil.copy(paths[i], tmp_path / f"early-{i}")
    stop_after(6)
    for i in (0, 2):
        shutil.copy(tmp_path / f"early-{i}", paths[i])
    paths[3].unlink()
    with steps_counted() as taken:
        parts = all_bits(run_stack(cells, CPU, checkpointers=checkpointers(4)))
    assert parts == whole
    assert taken == [*range(15, 24), *range(9, 24), *range(24)]


def test_networks_that_are_left_are_saved_as_often_as_before(configs, checkpointers, monkeypatch):
    """On a clock that goes on by a second a step; the first network leaves at step 16."""
    steps: dict[str, list[int]] = {name: [] for name in "0123"}
    save = Checkpointer.save

    def noting(self: Checkpointer, kept: CellCheckpoint) -> None:
        steps[self.path.name].append(kept.train_state.step)
        save(self, kept)

    cells = configs(*MLP, rates=(20, 0.1, 0.5, 0.02))
    with steps_counted() as taken:
        clock = SimpleNamespace(monotonic=lambda: float(len(taken)))
        monkeypatch.setattr("experiments.training.checkpoint.time", clock)
        monkeypatch.setattr(Checkpointer, "save", noting)
        list(run_stack(cells, CPU, checkpointers=checkpointers(4, every=5)))
    assert steps["0"] == [5, 10, 15]
    assert steps["1"] == steps["2"] == steps["3"] == [5, 10, 15, 20]


def test_a_cell_s_checkpoint_does_not_grow_with_its_stack(configs, checkpointers, tmp_path):
    case = ("model=mlp", "model.width=128", "probe.draws=0", "train.steps=2")
    cells, used = configs(*case, rates=(0.1,) * 8), checkpointers(8, every=0)
    list(run_stack(cells, CPU, checkpointers=used))
    alone = Checkpointer(tmp_path / "alone", every=0)
    run_cell(cells[0], CPU, checkpointer=alone)
    assert all(c.path.stat().st_size < 1.1 * alone.path.stat().st_size for c in used)


def test_halves_of_a_stack_resume_from_their_checkpoints(configs, checkpointers, monkeypatch):
    cells = configs(*MLP, rates=(0.1, 0.5, 0.02, 0.3))
    whole = all_bits(run_stack(cells, CPU))
    step = StackedEngine.step

    def failing(self: StackedEngine, number: int):
        if number == 10 and len(self.loaders) == 4:
            raise MemoryError
        return step(self, number)

    monkeypatch.setattr(StackedEngine, "step", failing)
    with steps_counted() as taken:
        halves = all_bits(run_stack(cells, CPU, checkpointers=checkpointers(4, every=0)))
    assert halves == whole
    assert taken == [*range(11), *range(10, 24), *range(10, 24)]


def test_draws_that_were_measured_before_a_stop_are_not_measured_again(
    configs, tmp_path, monkeypatch
):
    cells = configs(*MLP[:-1], "probe.draws=3")
    whole = all_bits(run_stack(cells, CPU))
    measured: list[tuple[int, int]] = []
    measure = CellRun.measure

    def noting(self: CellRun, draw: int):
        measured.append((self.cell.seed, draw))
        return measure(self, draw)

    monkeypatch.setattr(CellRun, "measure", noting)
    assert all_bits(stack_in_parts(cells, tmp_path, [4, 3])) == whole
    assert measured == [(seed, draw) for seed in range(4) for draw in (2, 1, 0)]


def test_a_checkpoint_of_one_engine_is_not_used_by_the_other(configs, checkpointers):
    (config,), (used,) = configs(*MLP, rates=(0.1,)), checkpointers(1, every=0)
    list(run_stack([config], CPU, checkpointers=[used]))
    with steps_counted() as taken:
        run_cell(config, CPU, checkpointer=used)
    assert used.load_error == "it was written for something else (engine)"
    assert taken == list(range(24))
