"""What the page is made of, each by itself."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from analysis import Results
from analysis.figures.study import ClaimResult, Study
from analysis.report.cells import Column, cell_columns, folded
from analysis.report.export import seeds_together
from analysis.report.figures import inline_svg, studied
from analysis.report.outcomes import FULL, NAMED, by_axis, grouped
from analysis.report.provenance import Launch, axes_of, read_launches
from experiments.sweep.status.status import Failure
from experiments.sweep.store.paths import SweepFolder

CHOICES = {"model": "mlp", "init": "he_normal"}


def line(cell: str, init: str = "he_normal", **config: object) -> dict:
    """A line of a plan; `init_std=1` is `init.std: 1`."""
    nested: dict = {}
    for key, value in config.items():
        group, _, name = key.partition("_")
        nested.setdefault(group, {})[name or "x"] = value
    asked = {"init": init} | {k.replace("_", ".", 1): v for k, v in config.items()}
    return {
        "cell_id": cell,
        "assignment": asked,
        "choices": CHOICES | {"init": init},
        "config": nested,
    }


def column(key: str, *values: object, role: str = "varies", kind: str = "text") -> Column:
    return Column(key, kind, list(values), role=role)


def test_columns_are_what_varies_outcomes_and_metrics():
    lines = [line("a", optim_lr=0.1, data_n=5), line("b", optim_lr=float("inf"), data_n=5)]
    row = {"cell_id": "a", "outcome": "ok", "test_loss": 0.5, "train_loss": float("inf")}
    row |= {"outcome_step": float("nan"), "seconds": float("nan"), "host": "here"}
    found = cell_columns({each["cell_id"]: each for each in lines}, pd.DataFrame([row]))
    assert [each.key for each in found] == [
        *("optim.lr", "outcome", "test_loss", "train_loss", "cell_id")
    ]
    by_key = {each.key: each for each in found}
    assert by_key["optim.lr"].values == [0.1, "inf"]
    assert by_key["optim.lr"].kind == "number"
    assert by_key["outcome"].values == ["ok", "missing"]
    assert by_key["train_loss"].values == ["inf", None]
    assert [by_key["test_loss"].shown(n) for n in (0, 1)] == ["0.5000", "–"]


def test_cells_of_journals_and_cells_at_work_have_outcomes():
    lines = {name: line(name, optim_lr=n) for n, name in enumerate("abc")}
    found = cell_columns(lines, pd.DataFrame(), ended={"a": "ok"}, running={"b"})
    (outcome,) = (each for each in found if each.role == "outcome")
    assert outcome.values == ["ok", "running", "missing"]


@pytest.mark.parametrize(
    ("value", "decimals", "shown"),
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
def test_numbers_are_shown_as_people_write_them(value: object, decimals: int | None, shown: str):
    assert Column("x", "number", [value], decimals).shown(0) == shown


def test_keys_that_come_with_an_option_stand_in_its_column():
    init = column("init", "normal", "uniform", "normal", "uniform")
    std = column("init.std", 0.1, None, 0.2, None)  # not every cell has it
    gain = column("init.gain", 2, 3, 2, 3)  # the option decides it
    bias = column("init.bias", 0, 0, 1, 1)  # an axis of its own
    (first, second) = folded([init, bias, gain, std])
    assert first.values == [
        *("normal gain=2 std=0.1", "uniform gain=3"),
        *("normal gain=2 std=0.2", "uniform gain=3"),
    ]
    assert second is bias


def test_a_key_whose_option_does_not_vary_keeps_its_column():
    std = column("init.std", 0.1, 0.2)
    assert folded([std]) == [std]


def test_seeds_are_put_together():
    found = seeds_together(
        [
            column("init", "a", "a", "b", "b"),
            column("seed", 0, 1, 0, 1, kind="number"),
            column("outcome", "ok", "ok", "ok", "diverged", role="outcome"),
            column("test_loss", 1.0, 3.0, 5.0, None, role="metric", kind="number"),
        ]
    )
    assert found["init"].tolist() == ["a", "b"]
    assert found["cells"].tolist() == [2, 2]
    assert found["ok"].tolist() == [2, 1]
    assert found["diverged"].tolist() == [0, 1]
    assert found["test_loss"].tolist() == [2.0, 5.0]
    assert found["test_loss sd"].round(3).tolist()[:1] == [1.414]


def test_outcomes_are_told_for_each_value_of_each_axis_but_seeds():
    init, seed = column("init", "a", "a", "b", "b"), column("seed", 0, 1, 0, 1)
    ended = column("outcome", "ok", "ok", "diverged", "ok", role="outcome")
    (axis,) = by_axis([init, seed, ended])
    assert axis.name == "init"
    told = {value: [(s.outcome, s.count) for s in shares] for value, shares in axis.bars}
    assert told == {"a": [("ok", 2)], "b": [("ok", 1), ("diverged", 1)]}


def failure(n: int, reason: str, traceback: Path | None = None) -> Failure:
    return Failure(f"cell-{n}", f"n={n}", "error", 1, reason, traceback)


def test_failures_of_one_reason_are_told_once(tmp_path: Path):
    trace = tmp_path / "trace.txt"
    trace.write_text("Traceback ...\nValueError: often\n")
    many = [failure(n, "ValueError: often", trace) for n in range(FULL + NAMED + 5)]
    first, second = grouped([failure(99, "OSError: once"), *many])
    assert (first.count, first.reason) == (FULL + NAMED + 5, "ValueError: often")
    assert [told.traceback for told in first.told] == [trace.read_text().strip()] * FULL
    assert (len(first.named), first.unnamed) == (NAMED, 5)
    assert (second.count, second.told[0].traceback) == (1, None)  # its reason says it all


def launch(**about: object) -> str:
    told = {"axes": [{"init": ["init=a"]}], "code": "abc+dirty", "launched": "2026"} | about
    return "---\n" + yaml.safe_dump(told, sort_keys=False)


def test_launches_are_read_though_one_is_torn(tmp_path: Path):
    diff = "--- a/x\n+++ b/x\n---\n-old\n+new\n"
    text = launch(question="Why?", diff=diff) + "---\n{torn\n"
    text += launch(axes=[{"init": ["init=b init.std=0.1", "init=a"]}])
    (tmp_path / "sweep.yaml").write_text(text)
    launches, unread = read_launches(SweepFolder(tmp_path))
    assert [each.question for each in launches] == ["Why?", None]
    assert launches[0].diff_lines == 5
    assert (launches[0].commit, launches[0].dirty) == ("abc", True)
    assert len(unread) == 1
    (axis,) = axes_of(launches)
    assert axis.values == ("a", "b init.std=0.1")


@pytest.mark.parametrize(
    ("ran", "typed"),
    [
        ("/x/.venv/bin/python3 -m experiments.run -m 'seed=range(3)'", None),
        ("/x/bin/python3 /x/bin/fanin-run init=a", "fanin-run init=a"),
        ("", ""),
    ],
)
def test_commands_are_told_as_one_types_them(ran: str, typed: str | None):
    told = Launch(None, None, (), (), "", "", 0, {"command": ran}, {}).command
    assert told == (ran.replace("/x/.venv/bin/python3", "python") if typed is None else typed)


def test_a_published_figure_is_told_with_its_numbers(monkeypatch: pytest.MonkeyPatch):
    line = ClaimResult("q*", "0.61 (their map)", "0.62 in the last layer", True)
    study = Study("It converges.", {"poole": Figure(figsize=(2, 2))}, "Tanh networks.", (line,))
    monkeypatch.setattr("analysis.report.figures.study_factory", lambda results: lambda: study)
    results = Results(SweepFolder(Path("poole")), *[pd.DataFrame()] * 6)
    found = studied(results, "python -m analysis.figures poole")
    assert found is not None
    assert (found.conclusion, found.claim_results) == ("reproduced", (line,))
    (drawn,) = found.figures
    assert "claimed 0.61 (their map), measured 0.62" in drawn.svg
    assert drawn.caption == "Tanh networks."


def test_figures_of_one_page_share_no_id_and_need_no_font():
    figure = Figure(figsize=(2, 2))
    axis = figure.subplots()
    axis.plot([0, 1], [0, 5])
    axis.set_title("a < b & c")
    one, other = (inline_svg(figure, name, "A <title>", "what & which") for name in ("f1", "f2"))
    assert "<text" not in one
    assert "<style" not in one
    assert "A &lt;title&gt;" in one
    assert one != other
    assert one.replace("f1-", "f2-") == other
