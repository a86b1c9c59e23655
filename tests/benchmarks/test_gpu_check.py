"""The GPU check, run on a CPU: all parts pass, and each part fails for a planted error."""

import json
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import replace
from importlib.metadata import distributions, packages_distributions, requires
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import benchmarks.gpu.__main__ as command
from benchmarks.gpu import environment, graphs, runs, sweep, throughput
from benchmarks.gpu.cases import GROUPS, Case, config_of, option_cases, options
from benchmarks.gpu.check import Comparison, Difference, failures, run_check
from benchmarks.gpu.steps import compare_step
from benchmarks.measure import ROOT
from experiments.cell import CellRun
from experiments.clip import ClipValue
from experiments.training.cuda_graph import CaptureLog
from experiments.training.engines import StackedEngine
from experiments.training.stack_size import StackPadding
from fanin.losses.table import TABLE

CPU = torch.device("cpu")
CLIPPED = Case("clip", "clip=value", ("clip=value", "clip.max_value=0.01"))
TWO_LAYER = Case("model", "model=two_layer", ())


def failed(comparison: Comparison) -> set[str]:
    """Return the quantities that differ by more than their tolerance."""
    return {diff.quantity for diff in comparison.differences if not diff.passed}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Run the command as a dry run; return its exit status, output and report."""
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    flags = ["--device", "cpu", "--tiny", "--json", str(path)]
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return SimpleNamespace(
        status=process.returncode,
        output=process.stdout + process.stderr,
        report=json.loads(path.read_text()),
    )


def test_the_dry_run_passes(dry_run):
    assert dry_run.status == 0, dry_run.output
    assert dry_run.report["passed"]
    assert dry_run.report["complete"]
    assert {check["status"] for check in dry_run.report["checks"]} <= {"pass", "refused"}
    assert all(check["seconds"] >= 0 for check in dry_run.report["checks"])


def test_every_part_is_checked(dry_run):
    parts = {check["part"] for check in dry_run.report["checks"]}
    assert parts == {
        *("one step", "stacked = serial", "probes", "divergence", "checkpoint", "sweep"),
        *("imports", "CUDA graph", "batch invariance"),
    }
    assert all(f" {part}: " in dry_run.output for part in parts)
    imported = {check["group"] for check in dry_run.report["checks"] if check["part"] == "imports"}
    assert {"fanin", "experiments", "analysis", "benchmarks"} <= imported


def test_every_option_takes_a_step(dry_run):
    """Check all files of `conf/`, all rows of the table of losses, all norms and dtypes."""
    steps = {c["case"] for c in dry_run.report["checks"] if c["part"] == "one step"}
    expected = {f"{group}={option} float32" for group in GROUPS for option in options(group)}
    expected -= {"init=custom float32"}  # has no target
    expected |= {f"loss={loss} head={h} loss.form={form} float32" for loss, h, form in TABLE}
    expected |= {f"model.norm={n} float32" for n in ("none", "batch", "layer", "mean_only")}
    expected |= {f"default {d}" for d in ("float64", "float32", "bfloat16", "float16")}
    assert expected <= steps


def test_an_unsupported_combination_is_not_a_failure(dry_run):
    refused = [c["case"] for c in dry_run.report["checks"] if c["status"] == "refused"]
    assert refused == ["float16 overflows"]


def test_throughput_and_environment_are_reported(dry_run):
    rows = {(row["network"], row["cells"]) for row in dry_run.report["throughput"]}
    assert rows == {("two_layer", 2), ("alexnet", 2)}
    assert all(row["ratio"] > 0 for row in dry_run.report["throughput"])
    info = dry_run.report["environment"]
    assert info["torch"] == torch.__version__
    assert {"device", "python", "cuda", "cudnn", "tf32_convolutions"} <= set(info)


def test_configs_equal_those_of_the_command_line(cell_config):
    """Compare with Hydra, because the check reads option files directly."""
    for case in (CLIPPED, *(case for case in option_cases() if case.group == "optim")):
        config = config_of(*case.overrides)
        overrides = [
            *("data=gaussian", "data.image_side=8", "data.classes=3", "data.train_size=96"),
            *("data.test_size=32", "model.pool=false", "activation=tanh", "train.batch_size=32"),
            *("train.steps=8", "probe=none"),
        ]
        assert config == cell_config(*overrides, *case.overrides)


def test_a_wrong_gradient_in_one_dtype_fails_only_that_step(monkeypatch):
    original = ClipValue.apply

    def wrong_apply(self, grads):
        clipped = original(self, grads)
        is_float32 = next(iter(grads.values())).dtype == torch.float32
        return {name: 1.001 * g for name, g in clipped.items()} if is_float32 else clipped

    monkeypatch.setattr(ClipValue, "apply", wrong_apply)
    assert failed(compare_step(CLIPPED, "float32", CPU)) == {"params"}
    assert failed(compare_step(CLIPPED, "float64", CPU)) == set()
    assert failed(compare_step(TWO_LAYER, "float32", CPU)) == set()


def test_a_stack_with_another_result_fails(monkeypatch):
    original = runs.train_stacked

    def wrong_train_stacked(specs, on_progress):
        for index, trained in original(specs, on_progress):
            if index == 1:
                trained.params["fc1.weight"] = trained.params["fc1.weight"] * (1 + 1e-10)
            yield index, trained

    assert failed(runs.compare_engines(TWO_LAYER, "float64", CPU)) == set()
    monkeypatch.setattr(runs, "train_stacked", wrong_train_stacked)
    assert failed(runs.compare_engines(TWO_LAYER, "float64", CPU)) == {"params of cell 1"}


def test_a_probe_with_another_result_fails(monkeypatch):
    original, calls = runs.run_cell, []

    def wrong_run_cell(config, device):
        result = original(config, device)
        calls.append(device)
        if len(calls) == 1:  # the cell on the device
            rows = result.tables["layers"]
            index = rows["quantity"].index("act_m2")
            rows["value"][index] *= 1 + 1e-9
        return result

    monkeypatch.setattr(runs, "run_cell", wrong_run_cell)
    assert failed(runs.compare_probes(TWO_LAYER, CPU)) == {"act_m2"}


@pytest.mark.parametrize("stacked", [False, True])
def test_divergence_at_another_step_fails(monkeypatch, stacked):
    config = config_of(*runs.DIVERGING["loss above bound"], "train.steps=40")
    original = runs.run_cell
    assert failed(runs.compare_divergence(config, CPU, stacked)) == set()
    calls = []

    def wrong_run_cell(config, device):
        result = original(config, device)
        calls.append(device)
        if len(calls) == 1:  # the reference
            result.row["outcome_step"] += 1
        return result

    monkeypatch.setattr(runs, "run_cell", wrong_run_cell)
    assert failed(runs.compare_divergence(config, CPU, stacked)) == {"outcome_step"}


@pytest.mark.parametrize("engine", ["serial", "stacked"])
def test_a_checkpoint_with_other_values_fails(monkeypatch, tmp_path, engine):
    config = config_of("optim=adam", "train.steps=20", *runs.PROBE)
    original = CellRun.restore

    def wrong_restore(self, checkpoint):
        checkpoint.train_state.state["params"]["fc1.weight"] *= 1.001
        original(self, checkpoint)

    monkeypatch.setattr(CellRun, "restore", wrong_restore)
    quantities = failed(runs.compare_resumed(engine, config, CPU, tmp_path))
    assert {"row of cell 0", "curves of cell 0"} <= quantities


def test_a_checkpoint_that_is_not_used_fails(monkeypatch, tmp_path):
    """The result is the same, because the cell runs again from the start."""
    config = config_of("train.steps=20", *runs.PROBE)
    monkeypatch.setattr(CellRun, "restore", lambda self, checkpoint: None)
    assert failed(runs.compare_resumed("serial", config, CPU, tmp_path)) == {"first step"}


@pytest.mark.parametrize(
    ("outcomes", "device", "expected"),
    [
        (["ok", "ok", "ok"], "cpu", set()),
        (["ok", "ok", "oom"], "cpu", {"outcomes"}),
        (["ok", "ok", "ok"], "cuda:0", {"device"}),
    ],
)
def test_a_sweep_with_a_failed_cell_or_on_another_device_fails(
    monkeypatch, tmp_path, outcomes, device, expected
):
    cells = pd.DataFrame({"outcome": outcomes, "seed": [0, 1, 2], "device": device})
    cells = cells.assign(**{"engine": "serial", "test_loss": 1.0, "train.dtype": "float32"})
    curves = pd.DataFrame({"metric": ["train_loss"] * (sweep.SEEDS * sweep.STEPS)})
    layers = pd.DataFrame({"layer_name": list(sweep.LAYERS)})
    tables = SimpleNamespace(cells=cells, curves=curves, layers=layers)
    monkeypatch.setattr(sweep, "run", lambda command: "")
    monkeypatch.setattr(sweep, "load", lambda name, folder: tables)
    assert failed(sweep.compare_sweep("serial", CPU, tmp_path)) == expected


def test_a_module_that_cannot_be_imported_is_named(monkeypatch, tmp_path):
    package = tmp_path / "broken_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fine.py").write_text("")
    (package / "bad.py").write_text("import no_such_module\n")
    (package / "developers.py").write_text("import playwright_of_developers\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "_dev_packages", lambda: {"playwright_of_developers"})
    monkeypatch.syspath_prepend(tmp_path)
    comparison = environment.compare_imports("broken_package")
    assert failed(comparison) == {"modules that fail"}
    assert "4 modules; broken_package.bad (no module no_such_module)" in comparison.detail
    assert "(development only): broken_package.developers" in comparison.detail


def test_an_exception_is_the_result_of_its_check_and_names_its_line():
    def broken():
        raise RuntimeError("CUDA error: an illegal memory access")

    check = run_check("one step", "model", "model=x", broken)
    assert check.status == "error"
    assert re.search(r"RuntimeError: CUDA error: .*test_gpu_check\.py:\d+", check.detail)
    assert run_check("a", "b", "c", Comparison).status == "error"  # nothing was compared


def test_a_graph_with_another_result_or_without_a_capture_fails(monkeypatch):
    overrides = ("model=linear", "schedule=cosine")
    assert failed(graphs.compare_replay(overrides, CPU)) == set()
    monkeypatch.setattr(graphs, "_as_usual", lambda function: lambda: None)
    assert failed(graphs.compare_replay(overrides, CPU)) == {"losses", "state", "repeated losses"}
    monkeypatch.setattr(graphs, "_as_usual", None)
    assert failed(graphs.compare_replay(overrides, CPU)) == {"captured graphs"}


def test_a_cell_that_diverges_elsewhere_in_a_shrinking_stack_fails(monkeypatch):
    original = graphs.train_stacked

    def wrong_train_stacked(specs, on_progress):
        for index, trained in original(specs, on_progress):
            yield index, replace(trained, divergence=None) if index == 3 else trained

    assert failed(graphs.compare_recapture(CPU)) == set()
    monkeypatch.setattr(graphs, "train_stacked", wrong_train_stacked)
    assert failed(graphs.compare_recapture(CPU)) == {"divergence of cell 3"}


def test_a_result_that_depends_on_the_stack_fails(monkeypatch):
    assert failed(graphs.compare_stacks(TWO_LAYER, CPU)) == set()
    monkeypatch.setattr("experiments.training.engines.stack_padding", lambda *_: StackPadding(1, 0))
    original = StackedEngine.step

    def step(self, number):  # as a kernel that rounds differently for few networks
        losses = original(self, number)
        if len(self.loaders) < graphs.INVARIANT_CELLS:
            self._state["params"]["fc1.weight"] *= 1 + 1e-6
        return losses

    monkeypatch.setattr(StackedEngine, "step", step)
    assert failed(graphs.compare_stacks(TWO_LAYER, CPU)) == {"bit-identical"}


def test_a_failed_capture_ends_the_checks(monkeypatch, tmp_path, capsys):
    log = CaptureLog()

    def checks(device, *, tiny, folder):
        yield run_check("CUDA graph", "replay", "a", lambda: Comparison((Difference("x", 0, 0),)))
        log.failure = "operation not permitted when stream is capturing"
        yield run_check("CUDA graph", "replay", "b", lambda: Comparison((Difference("x", 0, 0),)))
        raise AssertionError("another check ran")

    monkeypatch.setattr(command, "CAPTURES", log)
    monkeypatch.setattr(command, "all_checks", checks)
    monkeypatch.setattr(command, "throughputs", lambda device, load: 1 / 0)
    monkeypatch.setattr(command, "prepare_torch", lambda: None)
    monkeypatch.setattr(command.SUITE.__class__, "set", lambda self: None)
    path = tmp_path / "out.json"
    assert command.main(["--device", "cpu", "--tiny", "--json", str(path)]) == 1
    report = json.loads(path.read_text())
    assert [check["status"] for check in report["checks"]] == ["pass", "pass", "error"]
    assert report["cuda_graphs"] == {"count": 0, "failure": log.failure}
    assert not report["complete"]
    assert not report["passed"]
    assert "not permitted" in capsys.readouterr().out


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.2])
def test_a_difference_above_its_tolerance_fails(value):
    comparison = Comparison((Difference("good", 0.0, 0.1), Difference("bad", value, 0.1)))
    check = run_check("a", "b", "c", lambda: comparison)
    assert (check.status, check.quantity, check.detail) == ("fail", "bad", "bad")
    assert failures([check]) == [check]


def test_all_checks_run_after_a_failure_and_the_exit_status_is_1(monkeypatch, tmp_path, capsys):
    bad = Comparison((Difference("params", 0.2, 0.1),))
    good = Comparison((Difference("params", 0.0, 0.1),))

    def checks(device, *, tiny, folder):
        yield run_check("one step", "model", "model=bad", lambda: bad)
        yield run_check("one step", "optim", "optim=broken", lambda: 1 / 0)
        yield run_check("one step", "clip", "clip=good", lambda: good)

    monkeypatch.setattr(command, "all_checks", checks)
    monkeypatch.setattr(command, "throughputs", lambda device, load: iter(()))
    monkeypatch.setattr(command, "prepare_torch", lambda: None)
    monkeypatch.setattr(command.SUITE.__class__, "set", lambda self: None)
    path = tmp_path / "out.json"
    assert command.main(["--device", "cpu", "--tiny", "--json", str(path)]) == 1
    report = json.loads(path.read_text())
    assert [check["status"] for check in report["checks"]] == ["fail", "error", "pass"]
    assert report["passed"] is False
    output = capsys.readouterr().out
    assert "FAIL one step: model=bad: params 0.2 > 0.1" in output
    assert "ERROR one step: optim=broken" in output
    assert "3 checks" in output


def test_out_of_memory_affects_only_one_row_of_the_throughput(monkeypatch):
    original = throughput._measure

    def failing_measure(network, *rest):
        if network == "two_layer":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(network, *rest)

    monkeypatch.setattr(throughput, "_measure", failing_measure)
    rows = list(throughput.throughputs(CPU, throughput.TINY))
    assert [(row.network, row.ratio is None) for row in rows] == [
        ("two_layer", True),
        ("alexnet", False),
    ]
    assert rows[0].error == "OutOfMemoryError: CUDA out of memory"


def test_the_command_is_refused_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--quick"]) == 2
    assert "No CUDA device found" in capsys.readouterr().err


def installed_requirements(names: Iterable[str], without: Collection[str] = ()) -> set[str]:
    """Return installed packages and all their dependencies, in lower case and with underscores.

    Dependencies for other Pythons or systems are not installed here.
    """
    installed = {package.name.lower().replace("-", "_") for package in distributions()}
    queue, needed = list(names), set()
    while queue:
        text = queue.pop()
        name = re.split(r"[^\w.-]", text)[0].lower().replace("-", "_")
        if name in installed - set(without) - needed and "extra ==" not in text:
            needed.add(name)
            queue += requires(name) or []
    return needed


def wheels() -> set[str]:
    """Return the packages that `benchmarks/gpu_wheels` downloads."""
    process = subprocess.run(
        [str(ROOT / "benchmarks" / "gpu_wheels"), "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.partition("==")[0].lower().replace("-", "_") for line in process.stdout.split()}


def test_the_wheels_are_all_dependencies_except_the_large_ones():
    """Include indirect dependencies."""
    large = {"torch", "numpy", "pandas", "pyarrow", "scipy", "scikit_learn", "matplotlib"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["suite"]]
    assert wheels() == installed_requirements(direct, without=large)


IMPORT_WITHOUT_OTHER_PACKAGES = """
import sys

missing = set(sys.argv[1].split())

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import benchmarks.gpu.__main__
from benchmarks.gpu.environment import import_checks

checks = list(import_checks())
print(len(checks), *(check.detail for check in checks if check.status != "pass"), sep="\\n")
"""


def test_the_wheels_and_the_packages_in_the_docs_are_enough(tmp_path):
    """Without any other installed package, all modules can be imported, as on a GPU machine."""
    page = " ".join((ROOT / "docs" / "gpu.md").read_text().split())
    (stated,) = re.findall(r"needs Python 3\.12, ([\w, ]+ and \w+)\.", page)
    allowed = {"fanin"} | wheels() | installed_requirements(re.split(r", | and ", stated))
    modules = {
        module
        for module, packages in packages_distributions().items()
        if not {package.lower().replace("-", "_") for package in packages} & allowed
    }
    assert "sklearn" in modules
    process = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_OTHER_PACKAGES, " ".join(modules)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split("\n") == [str(len(environment.packages(ROOT))), ""]
