"""Training curves of the report, on tables with known values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.report.cells import Column
from analysis.report.training import (
    HEADROOM,
    MAX_LINES,
    TrainingSetting,
    draw,
    loss_line,
    metric_line,
    order_by_score,
    select_settings,
    training_settings,
)

SETTING = TrainingSetting("he", "he", ("a", "b", "c"))


def curve(cell: str, values: list[float], metric: str = "train_loss") -> pd.DataFrame:
    steps = range(len(values))
    return pd.DataFrame({"cell_id": cell, "step": steps, "metric": metric, "value": values})


def cells(**outcomes: tuple[str, float]) -> pd.DataFrame:
    rows = {
        cell: {"outcome": outcome, "train_loss": loss, "test_accuracy": loss}
        for cell, (outcome, loss) in outcomes.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def test_a_line_is_the_median_and_ends_when_half_of_the_cells_have_diverged() -> None:
    curves = pd.concat([curve("a", [1, 2, 3]), curve("b", [3, 9]), curve("c", [5])])
    states = cells(a=("ok", 3.0), b=("diverged", 9.0), c=("diverged", 5.0))
    line = loss_line(curves, states, SETTING)
    # Step 1: 1, 3, 5. Step 2: 2, 9, inf. Step 3: 3, inf, inf.
    assert line.tolist() == [3, 9, np.inf]
    assert line.index.tolist() == [1, 2, 3]


def test_a_cell_that_still_runs_is_left_out_after_its_last_step() -> None:
    curves = pd.concat([curve("a", [1, 2, 3]), curve("b", [3])])
    states = cells(a=("ok", 3.0), b=("killed", 3.0))
    assert loss_line(curves, states, TrainingSetting("", "", ("a", "b"))).tolist() == [2, 2, 3]


def test_the_loss_of_a_long_training_is_averaged_over_windows() -> None:
    line = loss_line(curve("a", list(range(1000))), cells(a=("ok", 0.0)), SETTING)
    assert line.attrs["window"] == 10
    assert line.iloc[:2].tolist() == [4.5, 14.5]
    assert line.index[[0, -1]].tolist() == [10, 1000]


def test_the_accuracy_at_the_end_comes_from_the_table_of_cells() -> None:
    curves = pd.concat([curve("a", [1.0] * 8), curve("a", [0.1, 0.2], "test_accuracy")])
    line = metric_line(
        curves, cells(a=("ok", 0.5)), TrainingSetting("", "", ("a",)), "test_accuracy"
    )
    assert dict(line) == {0: 0.1, 1: 0.2, 8: 0.5}


def test_settings_are_cells_that_differ_only_in_seeds() -> None:
    columns = [
        Column("init", "text", ["he", "he", "zeros", "zeros"]),
        Column("optim.lr", "number", [0.1, 0.1, 0.1, 0.1]),
        Column("seed", "number", [0, 1, 0, 1]),
        Column("cell_id", "text", ["a", "b", "c", "d"], role="id"),
    ]
    settings = training_settings(columns, {"a", "b", "c"})
    assert [(s.label, s.group, s.cell_ids) for s in settings] == [
        ("he lr=0.1", "he", ("a", "b")),
        ("zeros lr=0.1", "zeros", ("c",)),
    ]


def test_of_many_settings_the_best_of_each_init_is_shown() -> None:
    n = MAX_LINES + 2
    settings = [TrainingSetting(f"s{k}", "he" if k % 2 else "zeros", (f"c{k}",)) for k in range(n)]
    table = cells(**{f"c{k}": ("ok", float(n - k)) for k in range(n)})
    table.loc[f"c{n - 1}", "outcome"] = "diverged"  # its loss would be the lowest
    shown = select_settings(settings, table)
    assert [setting.label for setting in shown] == [f"s{n - 3}", f"s{n - 2}"]
    assert select_settings(settings[:MAX_LINES], table) == settings[:MAX_LINES]


def test_lines_are_in_the_order_of_the_summary() -> None:
    settings = [TrainingSetting(name, "", (name,)) for name in "abcd"]
    table = cells(a=("ok", 0.2), b=("ok", 0.9), c=("diverged", None), d=("ok", 0.5))
    order = [s.label for s in order_by_score(settings, table, "test_accuracy")]
    assert order == ["b", "d", "a", "c"]
    assert [s.label for s in order_by_score(settings, table, None)] == ["a", "d", "b", "c"]


def test_a_diverging_line_does_not_set_the_scale() -> None:
    lines = {"he": pd.Series([2.0, 1.0]), "large": pd.Series([2.5, 1e12])}
    (axis,) = draw(lines, {}, None).axes
    assert axis.get_ylim()[1] == HEADROOM * 2.5
    assert axis.get_yscale() == "log"


def test_a_loss_of_zero_has_a_linear_scale() -> None:
    (axis,) = draw({"he": pd.Series([1.0, 0.0])}, {}, None).axes
    assert axis.get_yscale() == "linear"
