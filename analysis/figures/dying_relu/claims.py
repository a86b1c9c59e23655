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
from analysis.figures.study import NO_THRESHOLD, ClaimResult

LAYERS: dict[Layer, str] = {"filter": "filter", "linear": "linear layer"}
TAPS = 3 * KERNEL**2  # weights of the filter, over three color channels
REPORTED = {
    "none": "at least one (report: a smaller learning rate alone helps)",
    "U(-0.1, 0.1)": "at least one (report: helps)",
    "tanh": "at least one (report: helps)",
    "conv gradient x 1e-3": "at least one (report: helps)",
    "conv gradient x 1e-6": "at least one (report: helps)",
    "linear layer alone": "at least one (report: classifies both images)",
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
                "none, but biases with their true gradients", "not in the report", rows
            )
            yield replace(claim, holds=None, threshold=NO_THRESHOLD)
        else:
            yield _remedy_claim("none", REPORTED["none"], rows)
    yield _cross_map_claim(long_runs[long_runs["clip.bias"] == "mean_of_weights"])


def _cross_map_claim(rows: pd.DataFrame) -> ClaimResult:
    """Count runs in which the map of the cross becomes black but that of the circle does not."""
    alive = rows[~rows["dead_at_end"]]
    correct = int((alive["cross_dead_at_end"] & alive["both_correct"]).sum())
    return ClaimResult(
        f"no remedy: map of the cross after {int(rows['train.steps'].max())} steps, in runs in "
        "which the map of the circle is not black",
        "no claim. If it is black, the logit of the cross is the classifier's bias. Steps on the "
        "cross do not change this bias, because its gradient is the mean of the weights' "
        "gradients, which are all 0",
        f"black in {alive['cross_dead_at_end'].sum()} of {len(alive)} runs. {correct} of these "
        "runs classify both images",
        None,
    )


def _remedy_claim(remedy: str, claimed: str, cells: pd.DataFrame) -> ClaimResult:
    parts, holds = [], []
    for inputs, rows in cells.groupby("inputs"):
        correct = rows.groupby("optim.lr")["both_correct"]
        text = f"{inputs.capitalize()}: {_working_rates(correct.sum(), correct.size())}."
        if rows["model"].iloc[0] != "linear":
            largest = rows[rows["optim.lr"] == rows["optim.lr"].max()]
            rate = largest["optim.lr"].iloc[0]
            text += f" At rate {rate:g}, the first step on the cross makes both maps black in "
            text += f"{largest['dead'].sum()} of {len(largest)} runs."
        if rows["dead_at_start"].any():
            text += f" Both maps are black before training in {rows['dead_at_start'].sum()} of "
            text += f"{len(rows)} runs."
        parts.append(text)
        holds.append(bool((correct.mean() == 1).any()))
    return ClaimResult(
        f"{remedy.replace('none', 'no remedy')}: learning rates at which all runs classify both "
        f"images after {int(cells['train.steps'].max())} steps",
        claimed,
        " ".join(parts),
        all(holds),
        threshold="at least one rate for each input range",
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
        return f"{len(working)} of {len(runs)} rates ({span})"
    if correct.max() == 0:
        return f"none of {len(runs)} rates; no run is correct at any rate"
    best = correct.idxmax()
    return (
        f"none of {len(runs)} rates; at best {correct.max():g} of {runs[best]:g} runs (at {best:g})"
    )


def killing_thresholds(cells: SweepCells, rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Find the smallest learning rate at which one step makes both maps black, by group of cells.

    Returns
    -------
    pandas.DataFrame
        One row per group, with the group's keys. `smallest_dead`: smallest tested rate that makes
        both maps black (inf if none does). `largest_alive`: the next smaller tested rate (0 if
        there is none). `measured`: their geometric mean. `predicted`: the prediction for
        `measured`. `cell_id`: one of the group's cells.
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
        predicted = [f"side {side}: {rows['predicted'].iloc[0]:.1e}" for side, rows in by_side]
        measured = [f"side {side}: {_format_bracket(rows)}" for side, rows in by_side]
        yield ClaimResult(
            f"{inputs}: smallest learning rate at which one step on the cross makes both maps "
            "black",
            f"{', '.join(predicted)} (theory)",
            ", ".join(measured),
            _all_within(by_input, factor),
            threshold=f"within a factor of {factor:g}",
        )
    trained = cells.part("remedies")
    shrunk = trained[(trained["remedy"].isin(["none", "conv gradient x 1e-3"]))]
    thresholds = killing_thresholds(cells, shrunk, ["inputs", "factor", "seed"])
    pairs = thresholds.pivot_table(index=["inputs", "seed"], columns="factor", values="measured")
    if {1.0, 1e-3} <= set(pairs.columns):
        ratios = (pairs[1e-3] / pairs[1.0]).replace(np.inf, np.nan).dropna()
        if len(ratios):
            yield ClaimResult(
                "smallest learning rate at which the first step on the cross makes both maps "
                "black: with conv gradient x 1e-3, divided by that without remedy (tested rates "
                "are a factor of 10 apart)",
                "1e3 (theory)",
                f"{ratios.min():.0e} to {ratios.max():.0e} ({len(ratios)} pairs of runs)",
                bool(((ratios > 0.99e2) & (ratios < 1.01e4)).all()),
                threshold="1e2 to 1e4: within one step of the grid",
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
            threshold=f"within a factor of {factor:g}",
        )
        yield ClaimResult(
            f"U(0, 1), unsaturated: 2 / lambda of the {name}, sides {_sides(uniform)}",
            f"{_join([_stable_step(value) for value in predicted])} (theory)",
            f"{_join([_stable_step(value) for value in measured])} (medians of {draws})",
            agrees,
            threshold=f"within a factor of {factor:g}",
        )
    for group, init in ((uniform, "U(0, 1)"), (zero_mean, "U(-0.1, 0.1)")):
        ratios = [curvatures[name]["filter"] / curvatures[name]["linear"] for name in group.index]
        measured = [float(ratio.median()) for ratio in ratios]
        predicted = [cells.theory(str(name)).curvature_ratio() for name in group.index]
        positions_per_tap = [side**2 / TAPS for side in group["data.side"]]
        has_mean = group is uniform
        yield ClaimResult(
            f"{init}: curvature of the filter divided by that of the linear layer, sides "
            f"{_sides(group)}",
            f"{_join(predicted)} (theory"
            + (
                f"); positions / weights of the filter: {_join(positions_per_tap)}"
                if has_mean
                else " without the ReLU: ratio of the mean curvatures; not tested)"
            ),
            f"{_join(measured)} (medians)",
            _within_factor(predicted, measured, factor) if has_mean else None,
            threshold=f"within a factor of {factor:g}" if has_mean else NO_THRESHOLD,
        )
    yield from _stability_claims(cells)


def _stability_claims(cells: SweepCells) -> Iterator[ClaimResult]:
    """Test whether a network of one linear layer also trains at learning rates above 2 / lambda.

    lambda is the largest curvature of its loss, which is at a predicted probability of 1/2.
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
            f"{inputs}, linear layer alone: largest learning rate at which all runs classify both "
            f"images, divided by 2 / lambda = {stable:.1e} (lambda: curvature at p = 1/2)",
            "above 2, because 2 / lambda does not bound the stable rates of cross entropy",
            f"{working.max() / stable:.1e}",
            bool(working.max() > 2 * stable),
            threshold="above 2",
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
        "network of the report: curvature of both layers before training",
        "0, because p rounds to 1. So 2 / lambda does not limit the learning rate, but the first "
        "step on the cross still makes both maps black",
        f"exactly 0 in {flat} of {len(curvature)} runs. Both maps are black after this step in "
        f"{report['dead'].sum()} runs",
        flat == len(curvature) and bool(report["dead"].all()),
        threshold="exactly 0 and black, in every run",
    )
    descent = cells.part("descent")
    thresholds = killing_thresholds(cells, descent, ["data.side", "factor", "seed"])
    layers = cells.curvatures(descent).droplevel("draw")
    filter_curvature = layers["filter"].reindex(thresholds["cell_id"]).to_numpy()
    stable = 2 / (filter_curvature * thresholds["factor"])
    low, high = thresholds["largest_alive"] / stable, thresholds["smallest_dead"] / stable
    predicted = thresholds["predicted"] / stable
    yield ClaimResult(
        "unsaturated, no biases, one step on both images: smallest learning rate that makes both "
        "maps black, divided by 2 / lambda of the filter",
        f"below 1: {predicted.min():.2g} to {predicted.max():.2g} (theory)",
        f"{low.min():.2g} to {high.max():.2g} ({len(thresholds)} networks; in half of them the "
        f"filter's gradient is multiplied by {thresholds['factor'].min():g})",
        _all_within(thresholds, factor) and bool((high < 1).all()),
        threshold=f"below 1, and within a factor of {factor:g} of theory",
    )
