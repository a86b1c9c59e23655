"""Choice of the engine: by request, by what can be stacked, by earlier or new timing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis import load
from experiments.config.catalog import config_loader
from experiments.sweep import engines as engines_module
from experiments.sweep.cli import run_command
from experiments.sweep.engines import choose_by_rule, run_trial, time_engines
from experiments.sweep.runners.inline import InlineRunner
from experiments.sweep.status.snapshot import read_planned
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import PackedCell, PlannedCell, group_cells
from experiments.training.engines import SerialEngine
from experiments.training.loader import StackedBatchLoader
from fanin.errors import FaninError

TINY = [
    "model=linear",
    "data.n_train=64",
    "data.n_test=32",
    "data.side=8",
    "probe=none",
    "train.steps=3",
]


@pytest.fixture(autouse=True)
def restore_torch_settings() -> Iterator[None]:
    """Restore torch's settings, which the inline runner changes in this process."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


def groups_of(cells: list[PlannedCell]) -> dict[str, list[PackedCell]]:
    return group_cells(PackedCell(cell.id, 1, cell.config, cell.choices) for cell in cells)


def by_model(groups: dict[str, list[PackedCell]], engines: dict[str, str]) -> dict[str, str]:
    return {groups[key][0].choices["model"] or "": engine for key, engine in engines.items()}


def test_requested_engine_is_used_where_possible(cells_of):
    cells = cells_of(*TINY, "train.dtype=float32,float16", "seed=0,1")
    groups = groups_of(cells)
    assert set(choose_by_rule(groups, "serial", {}).chosen.values()) == {"serial"}
    stacked = choose_by_rule(groups, "stacked", {})
    engines = {
        groups[key][0].config["train"]["dtype"]: engine for key, engine in stacked.chosen.items()
    }
    assert engines == {"float32": "stacked", "float16": "serial"}
    ((key, reason),) = stacked.reasons.items()
    assert groups[key][0].config["train"]["dtype"] == "float16"
    assert "train.dtype=float16" in reason


def test_auto_keeps_recorded_engines_and_times_others(cells_of):
    groups = groups_of(cells_of(*TINY[1:], "model=linear,mlp,two_layer", "seed=0,1"))
    keys = {groups[key][0].choices["model"]: key for key in groups}
    recorded = {keys["linear"]: "stacked", keys["mlp"]: "serial"}
    engines = choose_by_rule(groups, "auto", recorded)
    by_name = by_model(groups, engines.chosen)
    assert by_name == {"linear": "stacked", "mlp": "serial", "two_layer": "serial"}
    assert engines.untimed == (keys["two_layer"],)


def test_single_cell_is_not_timed(cells_of):
    engines = choose_by_rule(groups_of(cells_of(*TINY)), "auto", {})
    assert (list(engines.chosen.values()), engines.untimed) == (["serial"], ())


def test_timing_chooses_the_faster_engine(cells_of):
    groups = groups_of(cells_of(*TINY, "seed=range(4)"))
    engines = time_engines(choose_by_rule(groups, "auto", {}), groups, InlineRunner(), "cpu")
    ((key, (serial, stacked)),) = engines.timings.items()
    assert serial > 0
    assert stacked > 0
    assert engines.chosen[key] == ("stacked" if stacked < serial else "serial")
    assert engines.untimed == ()


def test_the_time_of_a_large_stack_is_extrapolated(cells_of, monkeypatch):
    """A stack of n cells takes 8 + n seconds per step here, and a single cell 1.4."""

    class FixedTimer:
        def __init__(self, engine, *_):
            n = len(engine.loaders)
            self.seconds_per_step = 1.4 if isinstance(engine, SerialEngine) else 8.0 + n

        def time_round(self):
            pass

    monkeypatch.setattr(engines_module, "_StepTimer", FixedTimer)
    configs = [cell.config for cell in cells_of(*TINY, "seed=range(16)")]
    assert run_trial(configs, "cpu").stacked == pytest.approx(24 / 16)
    large = run_trial(configs, "cpu", n_cells=64)
    assert large.stacked == pytest.approx(72 / 64)
    assert (run_trial(configs, "cpu").faster, large.faster) == ("serial", "stacked")


def test_cells_that_fail_to_build_run_serially(cells_of, monkeypatch, tmp_path):
    (tmp_path / "unlucky.py").write_text(
        "def sample(weight, generator):\n    raise OSError('no')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    groups = groups_of(
        cells_of(*TINY, "init=custom", "init._target_=unlucky.sample", "seed=range(2)")
    )
    engines = time_engines(choose_by_rule(groups, "auto", {}), groups, InlineRunner(), "cpu")
    assert list(engines.chosen.values()) == ["serial"]
    assert "OSError: no" in next(iter(engines.reasons.values()))


def test_one_failing_cell_does_not_prevent_timing(cells_of, monkeypatch, tmp_path):
    (tmp_path / "picky.py").write_text(
        "import torch\n"
        "def sample(weight, generator, std: float):\n"
        "    if std > 1:\n"
        "        raise ValueError('too wide')\n"
        "    return std * torch.randn(weight.shape, generator=generator)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ("init=custom", "init._target_=picky.sample", "init.std=2,0.1,0.2")
    configs = [cell.config for cell in cells_of(*TINY, *own)]
    assert run_trial(configs, "cpu").batch_invariant
    with pytest.raises(FaninError, match="ValueError: too wide"):
        run_trial(configs[:2], "cpu")


def sweep(results: Path, *overrides: str, name: str = "s") -> int:
    arguments = [
        *TINY,
        f"sweep.results={results}",
        f"sweep.name={name}",
        "runner=inline",
        *overrides,
    ]
    return run_command(config_loader(None), "config", arguments)


def ran_under(results: Path, name: str = "s") -> dict[int, str]:
    cells = load(name, results).cells
    return dict(zip(cells["seed"], cells["engine"], strict=True))


def test_plan_keeps_the_timed_engine_for_new_cells(tmp_path: Path) -> None:
    assert sweep(tmp_path, "engine=auto", "seed=range(3)") == 0
    plan = SweepFolder(tmp_path / "s").plan
    lines = [json.loads(line) for line in plan.read_text().splitlines()]
    (engine,) = {line["engine"] for line in lines}
    assert set(ran_under(tmp_path).values()) == {engine}
    # Record the other engine, as if timing had chosen it.
    other = {"serial": "stacked", "stacked": "serial"}[engine]
    plan.write_text("".join(f"{json.dumps(line | {'engine': other})}\n" for line in lines))
    assert sweep(tmp_path, "engine=auto", "seed=range(5)") == 0
    assert ran_under(tmp_path) == dict.fromkeys(range(3), engine) | {3: other, 4: other}


def test_cells_run_serially_by_default(tmp_path: Path) -> None:
    assert sweep(tmp_path, "seed=range(2)") == 0
    assert set(ran_under(tmp_path).values()) == {"serial"}
    assert "engine" not in json.loads(SweepFolder(tmp_path / "s").plan.read_text().splitlines()[0])


def test_the_plan_stores_the_expected_time_of_each_kind_of_cell(tmp_path: Path) -> None:
    assert sweep(tmp_path, "train.batch_size=8,64") == 0
    seconds = read_planned(SweepFolder(tmp_path / "s")).seconds.values()
    assert len(seconds) == 2
    assert 0 < min(seconds) < max(seconds)


def test_plan_mode_times_nothing(
    plan_of: Callable[[list[str]], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(InlineRunner, "call", lambda *_: pytest.fail("something ran"))
    arguments = [*TINY, "runner=inline", "train.dtype=float32,float16", "seed=range(2)"]
    assert plan_of([*arguments, "engine=auto"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "engine=auto: 1 kind of cells will be timed first" in shown
    assert "train.dtype=float16 would round" in shown


def test_stacked_sweep_is_bit_identical_for_any_packing(tmp_path: Path) -> None:
    overrides = ("engine=stacked", "seed=range(5)", "optim.lr=0.1,0.01", "optim.momentum=0,0.9")
    assert sweep(tmp_path, *overrides, name="one") == 0
    assert sweep(tmp_path, *overrides, "runner.pack_cells=3", name="other") == 0
    one, other = (plain(load(name, tmp_path).cells) for name in ("one", "other"))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert set(one["engine"]) == {"stacked"}


def plain(cells: pd.DataFrame) -> pd.DataFrame:
    kept = cells.drop(columns=["seconds", "attempt"]).astype(object)
    return kept.sort_values("cell_id", ignore_index=True)


def test_trial_reports_batch_invariance(cells_of) -> None:
    configs = [cell.config for cell in cells_of(*TINY, "seed=range(3)")]
    trial = run_trial(configs, "cpu")
    assert trial.batch_invariant
    assert trial.serial > 0
    assert trial.stacked > 0


def test_stack_without_batch_invariance_is_not_used(cells_of, monkeypatch) -> None:
    """Add a dependence on the position, because this machine has none."""
    original = StackedBatchLoader.batch

    def add_position(loader, inputs):
        batch = original(loader, inputs)
        position = torch.arange(len(batch.x)).reshape(-1, 1, 1, 1, 1)
        return batch._replace(x=batch.x * (1 + 1e-6 * position))

    monkeypatch.setattr(StackedBatchLoader, "batch", add_position)
    groups = groups_of(cells_of(*TINY, "seed=range(3)"))
    engines = time_engines(choose_by_rule(groups, "auto", {}), groups, InlineRunner(), "cpu")
    assert list(engines.chosen.values()) == ["serial"]
    assert "depend on the other cells of its stack" in next(iter(engines.reasons.values()))
