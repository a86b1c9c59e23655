"""Unit tests of the report's modules."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from analysis import Results
from analysis.figures.study import ClaimResult, Study
from analysis.report.cells import Column, cell_columns, fold_options
from analysis.report.export import average_over_seeds
from analysis.report.figures import build_study_section, inline_svg
from analysis.report.outcomes import MAX_DETAILED, MAX_LISTED, group_failures, outcomes_by_axis
from analysis.report.provenance import (
    Launch,
    Step,
    collect_axes,
    read_launches,
    reproduction_steps,
)
from experiments.sweep.status.failures import Failure
from experiments.sweep.store.paths import SweepFolder

CHOICES = {"model": "mlp", "init": "he_normal"}


def plan_record(cell: str, init: str = "he_normal", **config: object) -> dict:
    """Build a plan record; `init_std=1` sets `init.std: 1`."""
    nested: dict = {}
    for key, value in config.items():
        group, _, name = key.partition("_")
        nested.setdefault(group, {})[name or "x"] = value
    assignment = {"init": init} | {k.replace("_", ".", 1): v for k, v in config.items()}
    return {
        "cell_id": cell,
        "assignment": assignment,
        "choices": CHOICES | {"init": init},
        "config": nested,
    }


def column(key: str, *values: object, role: str = "varies", kind: str = "text") -> Column:
    return Column(key, kind, list(values), role=role)


def test_columns_are_varying_keys_outcomes_and_metrics():
    records = [
        plan_record("a", optim_lr=0.1, data_n=5),
        plan_record("b", optim_lr=float("inf"), data_n=5),
    ]
    row = {"cell_id": "a", "outcome": "ok", "test_loss": 0.5, "train_loss": float("inf")}
    row |= {"outcome_step": float("nan"), "seconds": float("nan"), "host": "here"}
    by_id = {record["cell_id"]: record for record in records}
    columns = cell_columns(by_id, pd.DataFrame([row]))
    assert [column.key for column in columns] == [
        *("optim.lr", "outcome", "test_loss", "train_loss", "cell_id")
    ]
    by_key = {column.key: column for column in columns}
    assert by_key["optim.lr"].values == [0.1, "inf"]
    assert by_key["optim.lr"].kind == "number"
    assert by_key["outcome"].values == ["ok", "missing"]
    assert by_key["train_loss"].values == ["inf", None]
    assert [by_key["test_loss"].display(n) for n in (0, 1)] == ["0.5000", "–"]


def test_ended_and_running_cells_without_a_table_have_outcomes():
    records = {name: plan_record(name, optim_lr=n) for n, name in enumerate("abc")}
    columns = cell_columns(records, pd.DataFrame(), outcomes={"a": "ok"}, running={"b"})
    (outcome,) = (column for column in columns if column.role == "outcome")
    assert outcome.values == ["ok", "running", "missing"]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (100.0, None, "100"),
        (1e-5, None, "1e-05"),
        (0.25, 3, "0.250"),
        (0.0, 3, "0.000"),
        (123456.0, 3, "1.23e+05"),
        (-0.0001, 3, "-1.00e-04"),
        ("inf", 3, "inf"),
        (None, 3, "–"),
    ],
)
def test_display_of_numbers(value: object, decimals: int | None, text: str):
    assert Column("x", "number", [value], decimals).display(0) == text


def test_keys_of_an_option_are_merged_into_its_column():
    init = column("init", "normal", "uniform", "normal", "uniform")
    std = column("init.std", 0.1, None, 0.2, None)  # missing in some cells
    gain = column("init.gain", 2, 3, 2, 3)  # determined by the option
    bias = column("init.bias", 0, 0, 1, 1)  # an independent axis
    (first, second) = fold_options([init, bias, gain, std])
    assert first.values == [
        *("normal gain=2 std=0.1", "uniform gain=3"),
        *("normal gain=2 std=0.2", "uniform gain=3"),
    ]
    assert second is bias


def test_a_key_of_a_constant_option_keeps_its_column():
    std = column("init.std", 0.1, 0.2)
    assert fold_options([std]) == [std]


def test_metrics_are_averaged_over_seeds():
    means = average_over_seeds(
        [
            column("init", "a", "a", "b", "b"),
            column("seed", 0, 1, 0, 1, kind="number"),
            column("outcome", "ok", "ok", "ok", "diverged", role="outcome"),
            column("test_loss", 1.0, 3.0, 5.0, None, role="metric", kind="number"),
        ]
    )
    assert means["init"].tolist() == ["a", "b"]
    assert means["cells"].tolist() == [2, 2]
    assert means["ok"].tolist() == [2, 1]
    assert means["diverged"].tolist() == [0, 1]
    assert means["test_loss"].tolist() == [2.0, 5.0]
    assert means["test_loss sd"].round(3).tolist()[:1] == [1.414]


def test_outcomes_are_counted_by_value_of_each_axis_except_seeds():
    init, seed = column("init", "a", "a", "b", "b"), column("seed", 0, 1, 0, 1)
    outcomes = column("outcome", "ok", "ok", "diverged", "ok", role="outcome")
    (axis,) = outcomes_by_axis([init, seed, outcomes])
    assert axis.name == "init"
    counts = {value: [(item.outcome, item.count) for item in items] for value, items in axis.values}
    assert counts == {"a": [("ok", 2)], "b": [("ok", 1), ("diverged", 1)]}


def failure(n: int, reason: str, traceback: Path | None = None) -> Failure:
    return Failure(f"cell-{n}", f"n={n}", "error", 1, reason, traceback)


def test_failures_with_one_reason_form_one_group(tmp_path: Path):
    trace = tmp_path / "trace.txt"
    trace.write_text("Traceback ...\nValueError: often\n")
    many = [failure(n, "ValueError: often", trace) for n in range(MAX_DETAILED + MAX_LISTED + 5)]
    first, second = group_failures([failure(99, "OSError: once"), *many])
    assert (first.count, first.reason) == (MAX_DETAILED + MAX_LISTED + 5, "ValueError: often")
    assert [detail.traceback for detail in first.details] == [
        trace.read_text().strip()
    ] * MAX_DETAILED
    assert (len(first.listed), first.n_unlisted) == (MAX_LISTED, 5)
    assert (second.count, second.details[0].traceback) == (1, None)  # the reason is complete


def launch_document(**record: object) -> str:
    default = {"axes": [{"init": ["init=a"]}], "code": "abc+dirty", "launched": "2026"}
    return "---\n" + yaml.safe_dump(default | record, sort_keys=False)


def test_a_damaged_launch_record_does_not_hide_others(tmp_path: Path):
    diff = "--- a/x\n+++ b/x\n---\n-old\n+new\n"
    text = launch_document(question="Why?", diff=diff) + "---\n{torn\n"
    text += launch_document(axes=[{"init": ["init=b init.std=0.1", "init=a"]}])
    (tmp_path / "sweep.yaml").write_text(text)
    launches, warnings = read_launches(SweepFolder(tmp_path))
    assert [launch.question for launch in launches] == ["Why?", None]
    assert launches[0].diff_lines == 5
    assert (launches[0].commit, launches[0].dirty) == ("abc", True)
    assert len(warnings) == 1
    assignments = [{"init": "a"}, {"init": "b", "init.std": 0.1}]
    plan = {str(n): {"assignment": assignment} for n, assignment in enumerate(assignments)}
    (axis,) = collect_axes(launches, plan)
    assert axis.values == ("a", "b init.std=0.1")
    (axis,) = collect_axes(launches, {"0": plan["0"]})  # no planned cell has the other value
    assert axis.values == ("a",)


@pytest.mark.parametrize(
    ("recorded", "typed"),
    [
        ("/x/.venv/bin/python3 -m experiments.run -m 'seed=range(3)'", None),
        ("/x/bin/python3 /x/bin/fanin run init=a", "fanin run init=a"),
        ("/x/bin/python3 /x/bin/fanin-run init=a", "fanin-run init=a"),
        ("", ""),
    ],
)
def test_recorded_commands_are_formatted_as_typed(recorded: str, typed: str | None):
    command = Launch(None, None, (), (), "", "", 0, {"command": recorded}, {}).command
    expected = recorded.replace("/x/.venv/bin/python3", "python") if typed is None else typed
    assert command == expected


def steps_of(command: str, layers: bool = True, figures: bool = True) -> list[Step]:
    machine = {"command": f"/x/bin/python3 /x/bin/{command}"}
    launches = [Launch(None, None, (), (), "", "abc", 0, machine, {})]
    return reproduction_steps(SweepFolder(Path("results/s")), launches, layers, figures)


@pytest.mark.parametrize("option", ["runner=slurm_local", "runner.workers=3", "sweep.mode=submit"])
def test_the_reproduction_leaves_out_the_runner(option: str):
    """`conf/runner/*_local.yaml` is not in git, so that a second clone lacks it."""
    step = steps_of(f"fanin run -m sweep=he2015 {option} init=a")[1]
    assert step.commands == ("fanin run -m sweep=he2015 init=a",)
    assert "results do not depend on it" in step.title
    step = steps_of("fanin run -m sweep=he2015")[1]
    assert step.title == "Run the cells (finished cells are skipped)"


def test_the_reproduction_lists_only_commands_that_have_data():
    def commands(**has: bool) -> list[str]:
        return [step.commands[0].split()[1] for step in steps_of("fanin run", **has)[2:]]

    assert commands() == ["check", "figures", "report"]
    assert commands(layers=False) == ["figures", "report"]
    assert commands(layers=False, figures=False) == ["report"]


def test_a_study_section_contains_claims_and_figures(monkeypatch: pytest.MonkeyPatch):
    result = ClaimResult("q*", "0.61 (their map)", "0.62 in the last layer", True, is_main=True)
    figures = {"poole": Figure(figsize=(2, 2))}
    warning = "2 of 9 cells are missing"
    study = Study("It converges.", figures, "Tanh networks.", (result,), warning)
    monkeypatch.setattr("analysis.report.figures.study_factory", lambda results: lambda: study)
    results = Results(SweepFolder(Path("poole")), *[pd.DataFrame()] * 6)
    section = build_study_section(results, "fanin figures poole")
    assert section is not None
    assert (section.statement, section.claim_results) == ("Reproduced", (result,))
    assert section.warning == warning
    (page_figure,) = section.figures
    assert "claimed 0.61 (their map), measured 0.62" in page_figure.svg
    assert page_figure.caption == "Tanh networks."


def test_inline_svgs_share_no_ids_and_need_no_fonts():
    figure = Figure(figsize=(2, 2))
    axis = figure.subplots()
    axis.plot([0, 1], [0, 5])
    axis.set_title("a < b & c")
    first, second = (inline_svg(figure, name, "A <title>", "what & which") for name in ("f1", "f2"))
    assert "<text" not in first
    assert "<style" not in first
    assert "A &lt;title&gt;" in first
    assert first != second
    assert first.replace("f1-", "f2-") == second
