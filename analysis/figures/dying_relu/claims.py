"""Claims of the study `dying_relu`: remedies, learning rates that make maps black, curvature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.dying_relu.cells import KERNEL, REMEDIES, Layer, SweepCells
from analysis.figures.dying_relu.report_claims import report_claims
from analysis.figures.query import bracket
from analysis.figures.study import ClaimResult

LAYERS: dict[Layer, str] = {"filter": "filter", "linear": "linear layer"}
TAPS = 3 * KERNEL**2  # weights of the filter, over three color channels
REPORTED = {
    "none": "a smaller learning rate alone helps (report)",
    "U(-0.1, 0.1)": "helps (report)",
    "tanh": "helps (report)",
    "conv gradient x 1e-3": "helps (report)",
    "conv gradient x 1e-6": "helps (report)",
    "linear layer alone": "classifies both images (report)",
}


def claim_results(cells: SweepCells, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Test all claims, in the order of the table."""
    yield from report_claims(cells, criterion)
    yield from _remedy_claims(cells)
    yield from _threshold_claims(cells, float(criterion["boundary"]))
    yield from _curvature_claims(cells, float(criterion["factor"]))
    yield from _descent_claims(cells, float(criterion["boundary"]))


def _remedy_claims(cells: SweepCells) -> Iterator[ClaimResult]:
    trained, long_runs = cells.part("remedies"), cells.part("long")
    for remedy in REMEDIES.values():
        rows = trained[trained["remedy"] == remedy]
        if len(rows):
            yield _remedy_claim(remedy, REPORTED[remedy], rows)
    for rule, rows in long_runs.groupby("clip.bias", observed=True, sort=True):
        if rule == "own":
            claim = _remedy_claim(
                "none, each bias with its own gradient", "not in the report", rows
            )
            yield replace(claim, holds=None)
        else:
            yield _remedy_claim("none", REPORTED["none"], rows)
    yield _cross_map_claim(long_runs[long_runs["clip.bias"] == "mean_of_weights"])


def _cross_map_claim(rows: pd.DataFrame) -> ClaimResult:
    """Count the runs in which the map of the cross dies but that of the circle does not."""
    alive = rows[~rows["dead_at_end"]]
    correct = int((alive["cross_dead_at_end"] & alive["both_correct"]).sum())
    return ClaimResult(
        f"no remedy: map of the cross after {int(rows['train.steps'].max())} steps, in runs in "
        "which the map of the circle is not black",
        "no claim. If it is black, the logit of the cross is the classifier's bias, which never "
        "changes: its gradient is the mean of its weights' gradients, which are all 0",
        f"black in {alive['cross_dead_at_end'].sum()} of {len(alive)} runs; {correct} of these "
        "classify both images",
        None,
    )


def _remedy_claim(remedy: str, claimed: str, cells: pd.DataFrame) -> ClaimResult:
    parts, holds = [], []
    for inputs, rows in cells.groupby("inputs"):
        correct = rows.groupby("optim.lr")["both_correct"]
        text = f"{inputs}: {_working_rates(correct.sum(), correct.size())}"
        if rows["model"].iloc[0] != "linear":
            largest = rows[rows["optim.lr"] == rows["optim.lr"].max()]
            rate = largest["optim.lr"].iloc[0]
            text += f", black after the step at rate {rate:g}: "
            text += f"{largest['dead'].sum()} of {len(largest)}"
        if rows["dead_at_start"].any():
            text += f", black before training: {rows['dead_at_start'].sum()} of {len(rows)}"
        parts.append(text)
        holds.append(bool((correct.mean() == 1).any()))
    return ClaimResult(
        f"{remedy.replace('none', 'no remedy')}: learning rates at which all runs classify both "
        f"images ({int(cells['train.steps'].max())} steps)",
        claimed,
        "; ".join(parts),
        all(holds),
    )


def _working_rates(correct: pd.Series, runs: pd.Series) -> str:
    """Describe the learning rates at which all runs are correct.

    Parameters
    ----------
    correct, runs
        Number of correct runs and of all runs, by learning rate.
    """
    working = correct.index[correct == runs]
    if len(working):
        lowest, highest = working.min(), working.max()
        span = f"{lowest:g} to {highest:g}" if len(working) > 1 else f"{lowest:g}"
        return f"{len(working)} of {len(runs)} ({span})"
    if correct.max() == 0:
        return f"none of {len(runs)}, no run correct at any rate"
    best = correct.idxmax()
    return f"none of {len(runs)}, at best {correct.max():g} of {runs[best]:g} runs (at {best:g})"


def killing_thresholds(cells: SweepCells, rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Find the smallest learning rate that kills, for each group of cells.

    A learning rate kills if one step makes the feature maps of both images black.

    Returns
    -------
    pandas.DataFrame
        One row per group, with the group's keys. `smallest_dead`: smallest rate that kills (inf if
        none does). `largest_alive`: the rate before it (0 if the smallest rate kills). `measured`:
        their geometric mean. `predicted`. `cell_id`: one of the group's cells.
    """
    thresholds = []
    for key, group in rows.groupby(by, observed=True):
        ordered = group.sort_values("optim.lr")
        rates, dead = ordered["optim.lr"].to_numpy(float), ordered["dead"].to_numpy(bool)
        largest_alive, smallest_dead = bracket(rates, dead)
        thresholds.append(
            {
                **dict(zip(by, key, strict=True)),
                "largest_alive": largest_alive,
                "smallest_dead": smallest_dead,
                "measured": float(np.sqrt(largest_alive * smallest_dead)),
                "predicted": cells.killing_rate(str(ordered.index[0])),
                "cell_id": str(ordered.index[0]),
            }
        )
    return pd.DataFrame(thresholds)


def _threshold_claims(cells: SweepCells, factor: float) -> Iterator[ClaimResult]:
    boundary = cells.part("boundary")
    thresholds = killing_thresholds(cells, boundary, ["inputs", "data.side", "seed"])
    for inputs, by_input in thresholds.groupby("inputs"):
        by_side = list(by_input.groupby("data.side"))
        predicted = [f"{rows['predicted'].iloc[0]:.1e} ({side})" for side, rows in by_side]
        measured = [f"{_format_bracket(rows)} (side {side})" for side, rows in by_side]
        yield ClaimResult(
            f"{inputs}: smallest learning rate at which one step on the cross kills",
            f"{', '.join(predicted)} (theory, by side)",
            ", ".join(measured),
            _all_within(by_input, factor),
        )
    trained = cells.part("remedies")
    shrunk = trained[(trained["remedy"].isin(["none", "conv gradient x 1e-3"]))]
    thresholds = killing_thresholds(cells, shrunk, ["inputs", "factor", "seed"])
    pairs = thresholds.pivot_table(index=["inputs", "seed"], columns="factor", values="measured")
    if {1.0, 1e-3} <= set(pairs.columns):
        ratios = (pairs[1e-3] / pairs[1.0]).replace(np.inf, np.nan).dropna()
        if len(ratios):
            yield ClaimResult(
                "smallest learning rate that kills: conv gradient x 1e-3 over no remedy (rates a "
                "factor of 10 apart)",
                "1e3 (theory)",
                f"{ratios.min():.0e} to {ratios.max():.0e} ({len(ratios)} pairs of runs)",
                bool(((ratios > 0.99e2) & (ratios < 1.01e4)).all()),
            )


def _format_bracket(rows: pd.DataFrame) -> str:
    low, high = rows["largest_alive"].min(), rows["smallest_dead"].max()
    return f"{low:.1e} to {'above the grid' if np.isinf(high) else f'{high:.1e}'}"


def _all_within(thresholds: pd.DataFrame, factor: float) -> bool:
    """Return True if every prediction is within `factor` of [largest_alive, smallest_dead]."""
    predicted = thresholds["predicted"]
    above = predicted * factor >= thresholds["largest_alive"]
    return bool((above & (predicted <= factor * thresholds["smallest_dead"])).all())


def _curvature_claims(cells: SweepCells, factor: float) -> Iterator[ClaimResult]:
    rows = cells.part("curvature")
    curvatures = {name: cells.curvatures(rows.loc[[name]]) for name in rows.index}
    uniform = rows[rows["init.a"] == 0].sort_values("data.side")
    zero_mean = rows[rows["init.a"] < 0].sort_values("data.side")
    draws = f"{uniform['probe.draws'].min():g} draws"
    for layer, name in LAYERS.items():
        measured = [float(curvatures[cell][layer].median()) for cell in uniform.index]
        predicted = [cells.theory(str(cell)).curvature(layer) for cell in uniform.index]
        agrees = _within_factor(predicted, measured, factor)
        yield ClaimResult(
            f"U(0, 1), unsaturated: curvature lambda of the {name}, sides {_sides(uniform)}",
            f"{_join(predicted)} (theory)",
            f"{_join(measured)} (medians of {draws})",
            agrees,
        )
        yield ClaimResult(
            f"U(0, 1), unsaturated: 2 / lambda of the {name}, sides {_sides(uniform)}",
            f"{_join([_stable_step(value) for value in predicted])} (theory)",
            f"{_join([_stable_step(value) for value in measured])} (medians of {draws})",
            agrees,
        )
    for group, init in ((uniform, "U(0, 1)"), (zero_mean, "U(-0.1, 0.1)")):
        ratios = [curvatures[name]["filter"] / curvatures[name]["linear"] for name in group.index]
        measured = [float(ratio.median()) for ratio in ratios]
        predicted = [cells.theory(str(name)).curvature_ratio() for name in group.index]
        positions_per_tap = [side**2 / TAPS for side in group["data.side"]]
        has_mean = group is uniform
        yield ClaimResult(
            f"{init}: curvature of the filter over curvature of the linear layer, sides "
            f"{_sides(group)}",
            f"{_join(predicted)} (theory"
            + (
                f"); positions / taps: {_join(positions_per_tap)}"
                if has_mean
                else " without the ReLU, ratio of mean curvatures)"
            ),
            f"{_join(measured)} (medians)",
            _within_factor(predicted, measured, factor) if has_mean else None,
        )
    yield from _stability_claims(cells)


def _stability_claims(cells: SweepCells) -> Iterator[ClaimResult]:
    """Test whether the linear layer alone also trains at learning rates above 2 / lambda.

    lambda is its largest curvature, at p = 1/2.
    """
    trained = cells.part("remedies")
    linear = trained[trained["model"] == "linear"]
    for inputs, rows in linear.groupby("inputs"):
        correct = rows.groupby("optim.lr")["both_correct"].mean()
        working = correct.index[correct == 1]
        if not len(working):
            continue
        stable = 2 / cells.max_curvature(str(rows.index[0]))
        yield ClaimResult(
            f"{inputs}, linear layer alone: largest rate at which all runs classify both images, "
            "times lambda / 2 at p = 1/2",
            "above 1, because 2 / lambda does not bound the stable rates of cross entropy; "
            f"2 / lambda = {stable:.1e}",
            f"{working.max() / stable:.1e}",
            bool(working.max() > 2 * stable),
        )


def _stable_step(curvature: float) -> float:
    """Return the largest stable step size, 2 / curvature; inf at zero curvature."""
    return 2 / curvature if curvature else float("inf")


def _sides(cells: pd.DataFrame) -> str:
    return ", ".join(f"{side:g}" for side in cells["data.side"])


def _join(values: list[float]) -> str:
    return ", ".join(f"{value:.2g}" if value < 100 else f"{value:.0f}" for value in values)


def _within_factor(predicted: list[float], measured: list[float], factor: float) -> bool:
    pairs = zip(predicted, measured, strict=True)
    return all(p <= factor * m and m <= factor * p for p, m in pairs)


def _descent_claims(cells: SweepCells, factor: float) -> Iterator[ClaimResult]:
    report = cells.part("report")
    curvature = cells.curvatures(report)
    flat = int((curvature == 0).all(axis=1).sum())
    yield ClaimResult(
        "as reported: curvature of both layers before training",
        "0, because p rounds to 1; so it does not determine which learning rates kill",
        f"exactly 0 in {flat} of {len(curvature)} runs; {report['dead'].sum()} of the runs are "
        "black after the step",
        flat == len(curvature) and bool(report["dead"].all()),
    )
    descent = cells.part("descent")
    thresholds = killing_thresholds(cells, descent, ["data.side", "factor", "seed"])
    layers = cells.curvatures(descent).droplevel("draw")
    filter_curvature = layers["filter"].reindex(thresholds["cell_id"]).to_numpy()
    stable = 2 / (filter_curvature * thresholds["factor"])
    low, high = thresholds["largest_alive"] / stable, thresholds["smallest_dead"] / stable
    predicted = thresholds["predicted"] / stable
    yield ClaimResult(
        "unsaturated logits, no biases: smallest learning rate at which one step kills, times "
        "lambda / 2 of the filter",
        f"not 1, but {predicted.min():.2g} to {predicted.max():.2g} (theory of one step)",
        f"between {low.min():.2g} and {high.max():.2g} ({len(thresholds)} networks, half of them "
        "with a shrunk gradient)",
        _all_within(thresholds, factor) and bool((high < 1).all()),
    )
