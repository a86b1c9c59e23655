"""A stack gives the results of `run_cell`, and a failing cell does not affect the others."""

import math

import pandas as pd
import pytest
import torch
from torch import Tensor

from experiments.cell import CellRun, run_cell
from experiments.result import CellResult
from experiments.stack import run_stack
from experiments.sweep.interrupts import Interrupted
from experiments.training.engines import StackedEngine
from fanin.errors import FaninError

CPU = torch.device("cpu")
SMALL = (
    *("data.side=7", "data.n_train=64", "data.n_test=32", "train.batch_size=16"),
    *("model=mlp", "model.depth=2", "model.width=8"),
    *("train.dtype=float64", "probe.draws=2", "probe.size=8"),
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def stack(cell_config):
    def configs(*common: str, rates=(0.1, 0.05, 0.01)) -> list[dict]:
        keys = {text.partition("=")[0] for text in common}
        small = [
            text
            for text in SMALL
            if text.partition("=")[0] not in keys
            and not ("model" in keys and text.startswith("model"))
        ]
        return [
            cell_config(*small, *common, f"optim.lr={lr}", f"seed={seed}")
            for seed, lr in enumerate(rates)
        ]

    return configs


def results(configs) -> dict[int, object]:
    ends = list(run_stack(configs, CPU))
    assert len({index for index, _ in ends}) == len(ends)
    return dict(ends)


def at_initialization(result: CellResult) -> pd.DataFrame:
    table = pd.DataFrame(result.tables["layers"])
    return table[table.step == 0]


def assert_same_table(stacked: CellResult, serial: CellResult, name: str, column: str) -> None:
    actual, expected = (pd.DataFrame(result.tables[name]) for result in (stacked, serial))
    keys = [key for key in actual.columns if key != column]
    pd.testing.assert_frame_equal(actual[keys], expected[keys])
    # Ten steps in float64. The absolute tolerance is for gradients that consist of rounding errors.
    pd.testing.assert_frame_equal(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "common",
    [
        (
            *("train.steps=10", "probe.steps=[3,10]", "train.evaluate_every=4"),
            *("probe.histograms=true", "probe.sharpness=true"),
        ),
        ("model.norm=batch", "train.epochs=2", "loss=mse", "probe.draws=0"),
        (
            *("model=two_layer", "model.channels=2", "clip.bias=mean_of_weights"),
            *("probe.tensors=[weight,bias,act,input_grad]", "probe.layer_sharpness=true"),
            *("probe.steps=[2]", "train.steps=4", "probe.draws=1", "probe.images=[0]"),
        ),
    ],
    ids=" ".join,
)
def test_a_stack_gives_the_results_of_run_cell(stack, common):
    configs = stack(*common, rates=(0.1, 0.01))
    stacked_results = results(configs)
    for index, config in enumerate(configs):
        stacked, serial = stacked_results[index], run_cell(config, CPU)
        assert list(stacked.row) == list(serial.row)
        assert list(stacked.tables) == list(serial.tables)
        for key, value in serial.row.items():
            if isinstance(value, float) and key != "seconds":
                assert stacked.row[key] == pytest.approx(value, rel=1e-9, nan_ok=True)
            elif key != "seconds":
                assert stacked.row[key] == value
        assert stacked.row["seconds"] > 0
        for name, column in (
            ("layers", "value"),
            ("curves", "value"),
            ("histograms", "count"),
            ("tensors", "value"),
        ):
            if serial.tables[name]:
                assert_same_table(stacked, serial, name, column)
        if serial.tables["layers"]:
            assert at_initialization(stacked).equals(at_initialization(serial))


def test_progress_is_reported_as_for_one_cell(stack):
    def reports(run) -> list[tuple[int, int]]:
        calls: list[tuple[int, int]] = []
        list(run(lambda done, total: calls.append((done, total))))
        return calls

    configs = stack("train.steps=40", "probe.draws=0")
    stacked = reports(lambda on_progress: run_stack(configs, CPU, on_progress))
    serial = reports(lambda on_progress: run_cell(configs[0], CPU, on_progress).tables)
    assert serial[0] == (0, 40)  # the data is loaded; each cell of a stack reports this
    assert stacked == [serial[0]] * len(configs) + serial[1:]


def test_a_diverged_cell_is_yielded_before_the_others(stack):
    configs = stack("train.steps=40", "probe.draws=0", rates=(0.1, 1e300, 0.01))
    ends = list(run_stack(configs, CPU))
    assert [index for index, _ in ends] == [1, 0, 2]
    assert [result.row["outcome"] for _, result in ends] == ["diverged", "ok", "ok"]
    assert ends[0][1].row["outcome_step"] == run_cell(configs[1], CPU).row["outcome_step"]
    assert math.isnan(ends[0][1].row["test_loss"])


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_cell_that_fails_before_training_does_not_affect_others(stack, monkeypatch, error):
    configs = stack("train.steps=3")
    measure_draws = CellRun.measure_draws

    def failing(run: CellRun) -> None:
        if run.config["seed"] == 1:
            raise error
        measure_draws(run)

    monkeypatch.setattr(CellRun, "measure_draws", failing)
    ends = results(configs)
    assert ends[1] is error
    assert ends[0].row["outcome"] == ends[2].row["outcome"] == "ok"


def test_an_interrupt_before_training_is_not_a_failure(stack, monkeypatch):
    def interrupted(run: CellRun) -> None:
        raise Interrupted

    monkeypatch.setattr(CellRun, "measure_draws", interrupted)
    with pytest.raises(Interrupted):
        results(stack("train.steps=3"))


@pytest.fixture
def patched_step(monkeypatch):
    """Return a function that makes each step raise for which `fails(loaders)` is True."""

    def patch(fails, error: BaseException) -> list[int]:
        sizes: list[int] = []
        step = StackedEngine.step

        def failing_step(self: StackedEngine, number: int) -> Tensor:
            sizes.append(len(self.loaders))
            if fails(self.loaders):
                raise error
            return step(self, number)

        monkeypatch.setattr(StackedEngine, "step", failing_step)
        return sizes

    return patch


def test_a_stack_too_large_for_memory_is_halved(stack, patched_step):
    sizes = patched_step(lambda loaders: len(loaders) > 2, MemoryError())
    configs = stack("train.steps=2", "probe.draws=0", rates=(0.1,) * 7)
    ends = results(configs)
    assert [ends[index].row["outcome"] for index in range(7)] == ["ok"] * 7
    assert sizes == [7, 3, 1, 1, 2, 2, 4, 2, 2, 2, 2]


def test_a_stack_is_halved_until_the_failing_cell_is_alone(stack, patched_step):
    patched_step(lambda loaders: any(ld.cell.seed == 3 for ld in loaders), FaninError("bad"))
    ends = results(stack("train.steps=2", "probe.draws=0", rates=(0.1,) * 5))
    assert isinstance(ends[3], FaninError)
    assert [ends[i].row["outcome"] for i in (0, 1, 2, 4)] == ["ok"] * 4


def test_an_interrupt_during_training_is_not_a_failure(stack, patched_step):
    patched_step(lambda loaders: True, Interrupted())
    with pytest.raises(Interrupted):
        results(stack("train.steps=2", "probe.draws=0"))


def test_a_cell_yielded_before_a_failure_is_not_yielded_again(stack, patched_step):
    steps: list[int] = []

    def late(loaders) -> bool:
        steps.append(len(loaders))
        return len(steps) == 20

    patched_step(late, MemoryError())
    configs = stack("train.steps=30", "probe.draws=0", rates=(0.1, 1e300, 0.01))
    ends = results(configs)
    assert [ends[i].row["outcome"] for i in range(3)] == ["ok", "diverged", "ok"]
