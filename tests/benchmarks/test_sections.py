"""Each section runs in its smallest size and gives complete tables (times are not tested)."""

import math
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import operations
from benchmarks.cells import plan
from benchmarks.large_sweep import fill_layers, grid, planned
from benchmarks.measure import python, run
from benchmarks.registry import SECTIONS, load_section
from benchmarks.results import read_results
from benchmarks.section import Settings, Workers
from benchmarks.sections import certificate, engines, overhead, probing, sweep, training
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import DataError, FaninError

NEEDS_CHROMIUM = pytest.mark.skipif(
    shutil.which("chromium") is None,
    reason="Chromium is not installed; run apt-get install chromium",
)
COMMANDS = ("overhead", "sweep")  # run commands of fanin, Hydra and submitit


@pytest.fixture
def in_this_process(monkeypatch):
    """Measure in this process: importing torch in a new one takes longer than a tiny section."""
    monkeypatch.setattr(Workers, "call", lambda self, name, function, *args: function(*args))
    monkeypatch.setattr(Workers, "call_once", lambda self, function, *args: function(*args))
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    "name",
    [
        *(
            pytest.param(name, marks=pytest.mark.slow if name in COMMANDS else ())
            for name in SECTIONS
        ),
        pytest.param("report_page", marks=NEEDS_CHROMIUM),
    ],
)
def test_a_section_runs_and_its_tables_are_complete(name, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "OUTPUT", tmp_path)
    assert command.main(["--tiny", name]) == 0
    (result,) = read_results(tmp_path, [name]).values()
    section = load_section(name)
    short = section.short_table(result.records)  # None: the section is only in the appendix
    for table in [*section.tables(result.records), *([] if short is None else [short])]:
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert section.answer(result.records).endswith(".")
    assert all(section.line(record) for record in result.records)


@pytest.mark.slow
def test_competitors_run_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "OUTPUT", tmp_path)
    assert command.main(["--tiny", "training"]) == 0
    assert read_results(tmp_path, ["training"])["training"].records


def test_missing_files_are_an_error_with_a_remedy(tmp_path):
    settings = Settings("quick", tmp_path, tmp_path, workers=None)
    with pytest.raises(DataError, match=f"fanin data fetch mnist --root {tmp_path}"):
        sweep.check(settings)


def test_an_incomplete_grid_is_not_compared():
    with pytest.raises(FaninError, match="3 cells instead of 64"):
        sweep._mean_accuracy("accuracy 0.5 of 3\n", sweep.Grid(seeds=4))


def test_the_error_of_a_failed_command_has_its_output():
    with pytest.raises(FaninError, match=r"exit status 2\n.*init=he_norml: no such option"):
        run(python("experiments.run", "init=he_norml"))


def test_the_large_grids_have_as_many_cells_as_asked_for():
    assert [len({cell.id for cell in planned(n)}) for n in (10, 100, 1000)] == [10, 100, 1000]
    with pytest.raises(ValueError, match="power of ten"):
        grid(20)


def test_a_sweep_with_layers_is_stored_completely(tmp_path):
    folder = SweepFolder(tmp_path / operations.SWEEP)
    fill_layers(folder, plan(["seed=range(5)"]), pack=2)
    assert len(list(folder.root.rglob("*.parquet"))) == 6  # 3 packs of `cells` and `layers`
    _, _, cells, layers = operations.load_seconds(tmp_path)
    assert (cells, layers) == (5, 5 * 10 * 8 * 8)


# --- tables of made-up records ----------------------------------------------------------------

TRAINING = {
    **{"model": "mlp", "shape": "1x28x28", "batch_size": 64, "steps": 10, "parameters": 1000},
    **{"flops": 8_000_000, "bytes": 1_000_000},
    "gemm_flops_per_second": [1e11, 1e11],  # 80 us
    "bytes_per_second": [1e10, 2e10],  # 100 us, 50 us
    "seconds_per_step": {"fanin": [200e-6, 160e-6], "plain": [300e-6, 320e-6]},
}


def test_training_is_compared_round_by_round():
    speed = training.speed_up(TRAINING, "plain")
    assert (speed.median, speed.low, speed.high) == pytest.approx((1.75, 1.5, 2.0))
    assert training.speed_up(TRAINING, "channels_last") is None
    assert training.shares_of_limit(TRAINING) == pytest.approx([0.5, 0.5])
    assert training.limit_name(TRAINING) == "compute"  # 160 us in both rounds, against 150 us
    row = training.tables([TRAINING])[0].rows[0]
    assert row[4:] == ("0.180", *["1.75 (1.50 to 2.00)"] * 2, "", "50 (50 to 50)", "compute")


def test_the_headline_compares_training_with_the_faster_loop():
    times = {"fanin": [2e-3], "plain": [4e-3], "channels_last": [1.9e-3]}
    slower = TRAINING | {"model": "resnet", "seconds_per_step": times}
    rates = {"gemm_flops_per_second": [1e11], "bytes_per_second": [1e10]}
    records = [TRAINING, slower | rates]
    assert training.faster_loop(records[1]) == "channels_last"
    text = training.answer(records)
    assert "0.95 (resnet) to 1.75 (mlp) times the speed of the faster of two" in text
    assert "it is slower in 1 of 2 models (resnet)" in text
    assert "1.75 (mlp) to 2.00 (resnet) times the speed of the loop without" in text
    assert training.short_table(records).rows[1][2:5] == ("0.95", "2.00", "0.95")
    assert "slower" not in training.answer([TRAINING])


def test_stacks_are_compared_with_serial_training():
    times = {"serial": [4e-3, 6e-3], "stacked": [2e-3, 2e-3]}
    records = [
        {"model": "linear", "cells": 2, "steps": 4, "seconds_per_cell_step": times},
        {"model": "linear", "cells": 8, "steps": 4, "seconds_per_cell_step": times},
    ]
    assert engines.speed_up(records[0]).text() == "2.50 (2.00 to 3.00)"
    assert engines.short_table(records).columns == ("model", "n", "2 cells", "8 cells")
    assert engines.short_table(records).rows == (("linear", "2", "2.50", "2.50"),)


@pytest.mark.parametrize("measure", [engines.serial_seconds, engines.stacked_seconds])
def test_the_start_and_end_of_a_training_do_not_count_as_steps(measure, monkeypatch):
    now = [0.0]

    def train(steps):
        now[0] += 100.0 + steps
        return SimpleNamespace(divergence=None)

    def train_stacked(cells, progress):
        result = train(sum(cells))
        return [(index, result) for index in range(len(cells))]

    def specs(overrides, cells):
        (steps,) = (int(text.removeprefix("train.steps=")) for text in overrides)
        return [steps] * cells

    monkeypatch.setattr(engines, "specs", specs)
    monkeypatch.setattr(engines, "train", lambda steps, progress: train(steps))
    monkeypatch.setattr(engines, "train_stacked", train_stacked)
    monkeypatch.setattr("benchmarks.sections.engines.time.process_time", lambda: now[0])
    assert measure((), 3, 7) == 7.0


def test_probing_is_the_time_of_all_draws_without_the_one_that_training_needs():
    times = {"draws and probe": [0.3, 0.5], "one draw": [0.1, 0.1], "training": [2.0, 2.0]}
    record = {"model": "mlp", "shape": "1x8x8", "steps": 3, "seconds": times}
    assert probing.percent(record) == "15.0 (10.0 to 20.0)"
    assert "15 % (mlp) to 15 % (mlp)" in probing.answer([record])


def test_the_drawn_networks_reach_the_standard_error_of_the_certificate():
    record = {
        **asdict(certificate.BASE),
        "seconds": {"certify": [2.0], "draw": [0.01]},
        "memory_mb": [10.0],
        **{"relative_se": [0.02], "variation": 0.5},
    }
    assert certificate.draws_needed(record) == 625  # (0.5 / 0.02)²
    assert certificate.relative(record).median == pytest.approx(625 * 0.01 / 2.0)
    exact = record | {"relative_se": [0.0]}
    assert certificate.draws_needed(exact) == 2500  # to 1 %


def overhead_records():
    """Return times with a start-up of 1 s and 10 ms per cell, and with 2 s and 100 ms for Hydra."""
    start = {"import torch": [1.0, 1.2], "first cell": [2.0, 3.0], "sweep": [3.0, 4.0]}
    records = [{"cells": 1, "seconds": start}]
    sizes = (10, 100, 1000, 10_000)
    records += [{"cells": n, "seconds": {"launch": [1 + 0.01 * n]}} for n in sizes]
    records += [{"cells": n, "seconds": {"hydra -m, basic": [2 + 0.1 * n]}} for n in (10, 100)]
    return records


def test_start_up_is_separated_from_the_time_per_cell():
    records = overhead_records()
    fit = overhead.growth(records, "launch")
    assert (fit.constant, fit.exponent) == pytest.approx((1.0, 1.0), rel=1e-4)
    assert overhead.slope(records, "launch") == pytest.approx(0.01)
    rows = {row[0]: row[1:] for row in overhead.tables(records)[2].rows}
    assert rows["launch"] == ("1.00", "1.00", "10.000")
    assert rows["hydra -m, basic"] == ("", "", "100.000")  # two sizes: no fit
    columns = overhead.short_table(records).columns
    assert columns[1:4] == ("10 cells (n=1)", "1,000 cells (n=1)", "10,000 cells (n=1)")
    text = overhead.answer(records)
    assert "after 2.5 s (`import torch` takes 1.1 s)" in text
    assert "costs 10.0 ms, with Hydra at least 100 ms" in text


def test_sweeps_are_compared_with_fanin():
    names = (sweep.FANIN, sweep.BASIC, sweep.JOBLIB, sweep.SUBMITIT, sweep.POOL)
    seconds = dict(zip(names, ([10.0], [40.0], [30.0], [20.0], [15.0]), strict=True))
    record = {
        **{"grid": asdict(sweep.Grid(4)), "cells": 64, "seconds": seconds},
        **{"accuracy": dict.fromkeys(names, 0.9), "random_images": False},
    }
    (table,) = sweep.tables([record])
    assert [row[4] for row in table.rows] == ["1.00", "4.00", "3.00", "2.00", "1.50"]
    assert table.rows[0][3] == "384"  # cells per minute
    assert "64 small CNNs on 6,400 MNIST images is 3.0 times" in sweep.answer([record])
    assert sweep.answer([record]).endswith("bare process pool (one round).")
    assert sweep.short_table([record]).columns[1] == "16 channels, 64 cells (n=1)"


def test_the_grid_of_the_headline_runs_three_times_whatever_it_takes():
    _, rounds, budget = max(sweep.SIZES["full"], key=lambda size: size[0].cells)
    assert rounds >= 3
    assert budget == math.inf


def test_the_largest_sweep_is_planned_but_not_launched(tmp_path):
    cases = overhead.cases(Settings("full", tmp_path, tmp_path, workers=None))
    names = [case.name for case in cases]
    assert "planning and store, 100,000 cells" in names
    assert "launch, 10,000 cells" in names
    assert "launch, 100,000 cells" not in names
