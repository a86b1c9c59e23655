"""Which engine cells run under: what was asked, what can be, and what an earlier launch found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis import load
from experiments.config.catalog import config_loader
from experiments.sweep.cli import run_command
from experiments.sweep.engines import time_engines, choose_by_rule, run_trial
from experiments.sweep.runners.inline import InlineRunner
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.types import PackedCell, PlannedCell, group_cells
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
def torch_as_before() -> Iterator[None]:
    """The inline runner sets this process up as a worker."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


def groups_of(cells: list[PlannedCell]) -> dict[str, list[PackedCell]]:
    return group_cells(PackedCell(cell.id, 1, cell.config, cell.choices) for cell in cells)


def by_model(groups: dict[str, list[PackedCell]], engines: dict[str, str]) -> dict[str, str]:
    return {groups[key][0].choices["model"] or "": engine for key, engine in engines.items()}


def test_serial_is_serial_and_stacked_is_stacked_where_it_can_be(cells_of):
    cells = cells_of(*TINY, "train.dtype=float32,bfloat16", "seed=0,1")
    groups = groups_of(cells)
    assert set(choose_by_rule(groups, "serial", {}).chosen.values()) == {"serial"}
    stacked = choose_by_rule(groups, "stacked", {})
    engines = {
        groups[key][0].config["train"]["dtype"]: engine for key, engine in stacked.chosen.items()
    }
    assert engines == {"float32": "stacked", "bfloat16": "serial"}
    ((key, reason),) = stacked.reasons.items()
    assert groups[key][0].config["train"]["dtype"] == "bfloat16"
    assert "train.dtype=bfloat16" in reason


def test_auto_keeps_to_what_was_found_and_times_the_rest(cells_of):
    groups = groups_of(cells_of(*TINY[1:], "model=linear,mlp,two_layer", "seed=0,1"))
    keys = {groups[key][0].choices["model"]: key for key in groups}
    recorded = {keys["linear"]: "stacked", keys["mlp"]: "serial"}
    engines = choose_by_rule(groups, "auto", recorded)
    found = by_model(groups, engines.chosen)
    assert found == {"linear": "stacked", "mlp": "serial", "two_layer": "serial"}
    assert engines.untimed == (keys["two_layer"],)


def test_a_cell_alone_is_not_timed(cells_of):
    engines = choose_by_rule(groups_of(cells_of(*TINY)), "auto", {})
    assert (list(engines.chosen.values()), engines.untimed) == (["serial"], ())


def test_timing_takes_steps_of_both_and_the_choice_follows_from_it(cells_of):
    groups = groups_of(cells_of(*TINY, "seed=range(4)"))
    engines = time_engines(choose_by_rule(groups, "auto", {}), groups, InlineRunner(), "cpu")
    ((key, (serial, stacked)),) = engines.timings.items()
    assert serial > 0
    assert stacked > 0
    assert engines.chosen[key] == ("stacked" if stacked < 0.9 * serial else "serial")
    assert engines.untimed == ()


def test_cells_that_can_t_be_made_run_serially_and_say_why(cells_of, monkeypatch, tmp_path):
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


def test_a_cell_that_can_t_be_made_does_not_keep_the_others_from_being_timed(
    cells_of, monkeypatch, tmp_path
):
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
    assert run_trial(configs, "cpu").independent
    with pytest.raises(FaninError, match="ValueError: too wide"):
        run_trial(configs[:2], "cpu")


def sweep(results: Path, *overrides: str, name: str = "s") -> int:
    words = [*TINY, f"sweep.results={results}", f"sweep.name={name}", "runner=inline", *overrides]
    return run_command(config_loader(None), "config", words)


def ran_under(results: Path, name: str = "s") -> dict[int, str]:
    cells = load(name, results).cells
    return dict(zip(cells["seed"], cells["engine"], strict=True))


def test_a_timed_choice_is_kept_in_the_plan_and_holds_for_new_cells(tmp_path: Path) -> None:
    assert sweep(tmp_path, "engine=auto", "seed=range(3)") == 0
    plan = SweepFolder(tmp_path / "s").plan
    lines = [json.loads(line) for line in plan.read_text().splitlines()]
    (found,) = {line["engine"] for line in lines}
    assert set(ran_under(tmp_path).values()) == {found}
    # As if timing had found the other one, whatever it would find now.
    other = {"serial": "stacked", "stacked": "serial"}[found]
    plan.write_text("".join(f"{json.dumps(line | {'engine': other})}\n" for line in lines))
    assert sweep(tmp_path, "engine=auto", "seed=range(5)") == 0
    assert ran_under(tmp_path) == dict.fromkeys(range(3), found) | {3: other, 4: other}


def test_without_a_recorded_choice_cells_run_serially(tmp_path: Path) -> None:
    assert sweep(tmp_path, "seed=range(2)") == 0
    assert set(ran_under(tmp_path).values()) == {"serial"}
    assert "engine" not in json.loads(SweepFolder(tmp_path / "s").plan.read_text().splitlines()[0])


def test_planning_times_nothing_and_says_what_would_be(
    plan_of: Callable[[list[str]], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(InlineRunner, "call", lambda *_: pytest.fail("something ran"))
    words = [*TINY, "runner=inline", "train.dtype=float32,float16", "seed=range(2)"]
    assert plan_of([*words, "engine=auto"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "engine=auto: 1 kind of cells to be timings first" in shown
    assert "train.dtype=float16 would round" in shown


def test_a_stacked_sweep_repeats_to_the_bit_however_it_is_packed(tmp_path: Path) -> None:
    asked = ("engine=stacked", "seed=range(5)", "optim.lr=0.1,0.01", "optim.momentum=0,0.9")
    assert sweep(tmp_path, *asked, name="one") == 0
    assert sweep(tmp_path, *asked, "runner.pack_cells=3", name="other") == 0
    one, other = (plain(load(name, tmp_path).cells) for name in ("one", "other"))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert set(one["engine"]) == {"stacked"}


def plain(cells: pd.DataFrame) -> pd.DataFrame:
    kept = cells.drop(columns=["seconds", "attempt"]).astype(object)
    return kept.sort_values("cell_id", ignore_index=True)


def test_a_trial_finds_that_cells_of_a_stack_keep_apart(cells_of) -> None:
    configs = [cell.config for cell in cells_of(*TINY, "seed=range(3)")]
    found = run_trial(configs, "cpu")
    assert found.independent
    assert found.serial > 0
    assert found.stacked > 0


def test_a_stack_whose_cells_depend_on_their_place_is_not_used(cells_of, monkeypatch) -> None:
    """The dependence is made up: where there are none, as on this machine, it can't be had."""
    honest = StackedBatchLoader.at

    def by_place(loader, step):
        inputs = honest(loader, step)
        place = torch.arange(len(inputs.x)).reshape(-1, 1, 1, 1, 1)
        return inputs._replace(x=inputs.x * (1 + 1e-6 * place))

    monkeypatch.setattr(StackedBatchLoader, "at", by_place)
    groups = groups_of(cells_of(*TINY, "seed=range(3)"))
    engines = time_engines(choose_by_rule(groups, "auto", {}), groups, InlineRunner(), "cpu")
    assert list(engines.chosen.values()) == ["serial"]
    assert "depend on the cells beside it" in next(iter(engines.reasons.values()))
