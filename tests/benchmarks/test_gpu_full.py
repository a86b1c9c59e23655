"""The throughput measurement for a GPU, run on a CPU with tiny networks."""

import json
import time
from dataclasses import asdict

import pytest
import torch

import benchmarks.gpu.__main__ as command
from benchmarks.gpu import full, methods
from benchmarks.gpu.flags import SUITE, TORCH_DEFAULTS, Flags
from benchmarks.gpu.full import DATA, NETWORKS, TINY_SIZE, Rate, Size
from benchmarks.gpu.processes import Processes
from experiments.training.cuda_graph import CaptureLog
from experiments.training.engines import StackedEngine

FLAGS = ["--full", "--tiny", "--device", "cpu", "--json"]


@pytest.fixture(autouse=True)
def restore_torch_settings():
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    flags = Flags.current()
    yield
    flags.set()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


def test_full_runs_to_the_end_on_a_cpu_with_tiny_networks(tmp_path, capsys):
    path = tmp_path / "full.json"
    assert command.main([*FLAGS, str(path)]) == 0
    rates = json.loads(path.read_text())["rates"]
    assert all(rate["steps_per_second"] > 0 and rate["error"] is None for rate in rates)
    methods = {(rate["method"], rate["cells"]) for rate in rates}
    assert methods == {
        *(("one by one", 1), ("plain loop", 1), ("plain loop, torch's defaults", 1)),
        ("2 processes", 2),
        *((method, cells) for method in ("stacked", "plain vmap") for cells in TINY_SIZE.cells),
        *(("stacked, grouped", 2), ("stacked, bmm", 2)),
    }
    assert {(rate["network"], rate["data"]) for rate in rates} == {
        (network, data) for network in NETWORKS for data in DATA
    }
    for rate in rates:
        defaults = rate["method"] == "plain loop, torch's defaults"
        assert rate["flags"] == asdict(TORCH_DEFAULTS if defaults else SUITE)
    assert len(rates) == len(methods) * len(NETWORKS) * len(DATA)
    assert "Throughput of many cells on one device" in capsys.readouterr().out


def test_a_full_run_that_is_cut_off_keeps_what_it_measured(tmp_path, monkeypatch):
    def cut_off(device, size):
        yield Rate("alexnet", "MNIST", "stacked", 16, 100.0)
        yield Rate("alexnet", "MNIST", "stacked", 128, error="OutOfMemoryError")
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "rates", cut_off)
    path = tmp_path / "full.json"
    with pytest.raises(KeyboardInterrupt):
        command.main([*FLAGS, str(path)])
    rates = json.loads(path.read_text())["rates"]
    assert [(rate["cells"], rate["steps_per_second"]) for rate in rates] == [
        (16, 100.0),
        (128, None),
    ]


def test_an_error_affects_only_its_measurement(monkeypatch):
    def failing(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(full, "NETWORKS", {"two_layer": NETWORKS["two_layer"]})
    monkeypatch.setattr(full, "DATA", {"MNIST": DATA["MNIST"]})
    monkeypatch.setattr(StackedEngine, "step", failing)
    measured = list(full.rates(torch.device("cpu"), TINY_SIZE))
    failed = {rate.method for rate in measured if rate.error}
    assert failed == {"stacked", "stacked, grouped", "stacked, bmm"}
    assert all("out of memory" in rate.error for rate in measured if rate.error)


def test_measurements_after_the_deadline_are_skipped(monkeypatch):
    monkeypatch.setattr(full, "DATA", {"MNIST": DATA["MNIST"]})
    size = Size(cells=(1,), seconds=0.0, processes=1, deadline=-1.0, overrides=TINY_SIZE.overrides)
    assert {rate.error for rate in full.rates(torch.device("cpu"), size)} == {
        "skipped: out of time"
    }


def test_after_a_failed_capture_only_other_processes_measure(monkeypatch):
    log = CaptureLog()
    original = StackedEngine.step

    def step(self, number):
        log.failure = "operation not permitted"
        return original(self, number)

    monkeypatch.setattr(full, "NETWORKS", {"two_layer": NETWORKS["two_layer"]})
    monkeypatch.setattr(full, "DATA", {"MNIST": DATA["MNIST"]})
    monkeypatch.setattr(full, "CAPTURES", log)
    monkeypatch.setattr(StackedEngine, "step", step)
    measured = list(full.rates(torch.device("cpu"), TINY_SIZE))
    errors = [(rate.method, (rate.error or "")[:8]) for rate in measured]
    assert errors[:4] == [
        ("one by one", ""),
        ("plain loop", ""),
        ("plain loop, torch's defaults", ""),
        ("stacked", "measured"),
    ]
    assert {error for _, error in errors[4:-1]} == {"skipped:"}
    assert errors[-1] == ("2 processes", "")


def test_a_process_that_fails_does_not_disturb_the_next_measurement():
    network = full._overrides("two_layer", "MNIST", TINY_SIZE)
    with Processes(2, torch.device("cpu")) as processes:
        with pytest.raises(RuntimeError, match="activation"):
            processes((*network, "activation=none"), 0.0, SUITE)
        rate, flags = processes(network, 0.0, SUITE)
        assert rate > 0
        assert flags == SUITE
        processes._processes[1].terminate()
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"ended|Broken pipe|reset"):
                processes(network, 0.0, SUITE)


def test_a_rate_counts_from_the_common_start_to_the_common_end():
    steps = []
    begin = time.monotonic() + 0.05

    def start():
        assert len(steps) == methods.WARM_UP
        time.sleep(begin - time.monotonic())
        return begin

    def step(number):
        steps.append(number)
        time.sleep(0.002)

    rate = methods.rate(step, torch.device("cpu"), 0.1, 3, start)
    assert time.monotonic() >= begin + 0.1
    assert steps == list(range(len(steps)))
    assert rate <= 3 * (len(steps) - methods.WARM_UP) / 0.1
