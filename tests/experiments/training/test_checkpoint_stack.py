"""A stack that is run in parts is, to the bit, the stack that is run at once."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from parts import CPU, after, bits, stack_in_parts, steps_counted, words

from experiments.begun import Begun
from experiments.cell import run_cell
from experiments.stack import run_stack
from experiments.training.checkpoint import Keeper, Stopped
from experiments.training.lanes import StackedLanes
from experiments.training.progress import Kept

pytestmark = pytest.mark.usefixtures("as_in_workers")
MLP = ("model=mlp", "model.depth=2", "model.width=8", "loss=mse", "probe.draws=1")
RATES = (0.1, 20, 0.5, 0.02)  # the second diverges at step 10, which is seen at 16


@pytest.fixture
def configs(cell_config):
    def of(*case: str, rates=RATES) -> list[dict]:
        own = [(f"optim.lr={lr}", f"seed={seed}") for seed, lr in enumerate(rates)]
        return [cell_config(*words(*case, *each)) for each in own]

    return of


@pytest.mark.parametrize("stops", [(1, 4, 7, 5), (6, 20), (13, 13)], ids=str)
@pytest.mark.parametrize(
    ("case", "rates"),
    [
        ((*MLP, "optim.momentum=0.5", "train.evaluate_every=5", "probe.steps=[3,20]"), RATES),
        (("model=two_layer", "optim=adam", "model.norm=batch"), (0.01, 0.002, 0.03)),
        (("model=alexnet", "data.side=15", "model.dropout=0.5"), (0.01, 1e9, 0.02, 0.001)),
    ],
    ids=["mlp", "two_layer", "alexnet"],
)
def test_a_stack_in_parts_is_the_stack_at_once(configs, tmp_path, case, rates, stops):
    cells = configs(*case, rates=rates)
    with steps_counted() as at_once:
        whole = dict(run_stack(cells, CPU))
    with steps_counted() as taken:
        parts = stack_in_parts(cells, tmp_path, stops)
    assert {i: bits(result) for i, result in parts.items()} == {
        i: bits(result) for i, result in whole.items()
    }
    assert taken == at_once == list(range(24))


def test_a_network_of_the_stack_diverges(configs):
    """Else the tests above would show less than they mean to."""
    rows = [result.row for _, result in run_stack(configs(*MLP), CPU)]
    assert [row["outcome"] for row in rows] == ["diverged", "ok", "ok", "ok"]
    assert rows[0]["outcome_step"] == 10


def test_cells_that_are_kept_at_different_steps_go_on_each_from_its_own(configs, tmp_path):
    """As where a process is killed between two of the files."""
    cells = configs(*MLP, rates=(0.1, 0.5, 0.02, 0.3))
    keepers = [Keeper(tmp_path / str(i)) for i in range(4)]
    whole = dict(run_stack(cells, CPU))

    def stop_after(checks: int) -> None:
        stop = after(checks)
        stopped = [Keeper(keeper.path, stop=stop, ask_every=0) for keeper in keepers]
        with pytest.raises(Stopped):
            list(run_stack(cells, CPU, keepers=stopped))

    stop_after(4 + 9)
    for i in (0, 2):
        shutil.copy(keepers[i].path, tmp_path / f"early-{i}")
    stop_after(6)
    for i in (0, 2):
        shutil.copy(tmp_path / f"early-{i}", keepers[i].path)
    keepers[3].path.unlink()
    with steps_counted() as taken:
        parts = dict(run_stack(cells, CPU, keepers=keepers))
    assert [bits(parts[i]) for i in range(4)] == [bits(whole[i]) for i in range(4)]
    assert taken == [*range(15, 24), *range(9, 24), *range(24)]


def test_networks_that_are_left_are_kept_as_often_as_before(configs, tmp_path, monkeypatch):
    """On a clock that goes on by a second a step; the first network leaves at step 16."""
    steps: dict[str, list[int]] = {name: [] for name in "0123"}
    save = Keeper.save

    def noting(self: Keeper, kept: Kept) -> None:
        steps[self.path.name].append(kept.progress.step)
        save(self, kept)

    keepers = [Keeper(tmp_path / str(i), every=5) for i in range(4)]
    with steps_counted() as taken:
        clock = SimpleNamespace(monotonic=lambda: float(len(taken)))
        monkeypatch.setattr("experiments.training.checkpoint.time", clock)
        monkeypatch.setattr(Keeper, "save", noting)
        list(run_stack(configs(*MLP, rates=(20, 0.1, 0.5, 0.02)), CPU, keepers=keepers))
    assert steps["0"] == [5, 10, 15]
    assert steps["1"] == steps["2"] == steps["3"] == [5, 10, 15, 20]


def test_a_cell_s_file_does_not_grow_with_its_stack(configs, tmp_path):
    cells = configs("model=mlp", "model.width=128", "probe.draws=0", rates=(0.1,) * 8)
    keepers = [Keeper(tmp_path / str(i), every=0) for i in range(8)]
    list(run_stack(cells, CPU, keepers=keepers))
    alone = Keeper(tmp_path / "alone", every=0)
    run_cell(cells[0], CPU, keeper=alone)
    assert all(k.path.stat().st_size < 1.1 * alone.path.stat().st_size for k in keepers)


def test_halves_of_a_stack_go_on_from_what_was_kept(configs, tmp_path, monkeypatch):
    cells = configs(*MLP, rates=(0.1, 0.5, 0.02, 0.3))
    whole = dict(run_stack(cells, CPU))
    step = StackedLanes.step

    def failing(self: StackedLanes, number: int):
        if number == 10 and len(self._feeds) == 4:
            raise MemoryError
        return step(self, number)

    monkeypatch.setattr(StackedLanes, "step", failing)
    keepers = [Keeper(tmp_path / str(i), every=0) for i in range(4)]
    with steps_counted() as taken:
        halves = dict(run_stack(cells, CPU, keepers=keepers))
    assert [bits(halves[i]) for i in range(4)] == [bits(whole[i]) for i in range(4)]
    assert taken == [*range(11), *range(10, 24), *range(10, 24)]


def test_draws_that_were_measured_before_a_stop_are_not_measured_again(
    configs, tmp_path, monkeypatch
):
    cells = configs(*MLP[:-1], "probe.draws=3")
    whole = {index: bits(result) for index, result in run_stack(cells, CPU)}
    measured: list[tuple[int, int]] = []
    measure = Begun.measure

    def noting(self: Begun, draw: int):
        measured.append((self.cell.seed, draw))
        return measure(self, draw)

    monkeypatch.setattr(Begun, "measure", noting)
    parts = stack_in_parts(cells, tmp_path, [4, 3])
    assert {index: bits(result) for index, result in parts.items()} == whole
    assert measured == [(seed, draw) for seed in range(4) for draw in (2, 1, 0)]


def test_what_one_engine_has_kept_the_other_does_not_use(configs, tmp_path):
    (config,) = configs(*MLP, rates=(0.1,))
    keeper = Keeper(tmp_path / "kept", every=0)
    list(run_stack([config], CPU, keepers=[keeper]))
    with steps_counted() as taken:
        run_cell(config, CPU, keeper=keeper)
    assert keeper.ignored == "it was written for something else (engine)"
    assert taken == list(range(24))
