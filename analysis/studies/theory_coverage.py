"""Write the coverage of theory's intervals into docs/appendix/theory-coverage.md.

python -m analysis.studies.theory_coverage theory_grid --write docs/appendix/theory-coverage.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.cli import add_sweep_arguments, prediction_progress
from analysis.coverage import (
    WIDE,
    coverage_by,
    layers_with_spread,
    mark_interval_hits,
    narrowest_width,
)
from analysis.load import load
from analysis.studies.blocks import publish
from analysis.studies.tables import markdown_table
from analysis.theory_comparison import TheoryComparison, compare_to_theory
from analysis.verdicts import (
    BACKWARD,
    EXPLAINED,
    NOT_REJECTED,
    SIMULATED,
    compute_verdicts,
    count_verdicts,
)
from experiments.console import exit_on_error
from experiments.schema import build_cell
from fanin.statistics.agreement import DISAGREES
from fanin.statistics.coverage import Coverage, coverage
from fanin.theory.moments import declared_moments
from fanin.theory.prediction import METHODS

MEAN = -1  # `image` of the mean over the probe set, which has one image in these sweeps
EXCLUDED = {
    "zero": "zero in all draws or in the prediction, or rounded to zero by float32 in some draws",
    "constant": "equal in all draws",
    "overflowed": "overflowed in a draw or in the prediction",
    "unpredicted": "no prediction",
}
QUANTITIES = ("preact_m2", "preact_var", "vjp_m2", "weight_vjp_m2")
"""Moments for which theory predicts an interval."""
GROUPS = ("model", "activation", "init", "data", "scaling")
COUNTED, WEIGHTS = "prediction", "weights"  # columns of `CoverageResult.rows`
ZERO_MEAN, NONZERO_MEAN = "zero mean", "non-zero mean"


@dataclass(frozen=True)
class CoverageResult:
    """Verdicts and interval hits of a sweep.

    Attributes
    ----------
    comparisons
        Settings with measured draws and predictions.
    rows
        One row per setting, quantity and layer (`analysis.verdicts.compute_verdicts`). Further
        columns are groups: `prediction` (`simulated` or `not simulated`), `weights` (`zero mean` or
        `non-zero mean`), `width`, `depth` and the axes in `GROUPS`.
    hits
        One row per draw of each tested row that is not simulated. `hit`: True if the draw is inside
        its interval.
    """

    comparisons: Sequence[TheoryComparison]
    rows: pd.DataFrame
    hits: pd.DataFrame


def evaluate_coverage(comparisons: Sequence[TheoryComparison]) -> CoverageResult:
    """Test every layer of every setting, and mark the draws inside their intervals."""
    selected = [_select_quantities(comparison) for comparison in comparisons]
    rows = _with_groups(compute_verdicts(selected), selected)
    counted = rows[rows["method"] != SIMULATED]
    hits = mark_interval_hits(selected, layers_with_spread(counted))
    return CoverageResult(selected, rows, hits)


def _with_groups(rows: pd.DataFrame, comparisons: Sequence[TheoryComparison]) -> pd.DataFrame:
    """Add the columns of `CoverageResult.rows` by which coverage is given."""
    configs = [comparison.setting.config for comparison in comparisons]
    weights = {n: weights_group(configs[n]) for n in rows["setting"].unique()}
    widths = {n: _width(configs[n]) for n in rows["setting"].unique()}
    is_simulated = rows["method"] == SIMULATED
    groups = {
        COUNTED: np.where(is_simulated, SIMULATED, f"not {SIMULATED}"),
        WEIGHTS: rows["setting"].map(weights),
        "width": rows["setting"].map(widths),
        "depth": _depth(rows),
    }
    for group in GROUPS:
        if any(group in comparison.setting.axis_values for comparison in comparisons):
            options = {n: _option(comparison, group) for n, comparison in enumerate(comparisons)}
            groups[group] = rows["setting"].map(options)
    return rows.assign(**groups)


def weights_group(config: Mapping[str, Any]) -> str:
    """Return `zero mean` if the weights of every layer have mean zero, else `non-zero mean`."""
    with torch.random.fork_rng(devices=[]):  # building a network uses torch's global generator
        cell = build_cell(config)
        moments = declared_moments(cell.network(), cell.init)
    means = [torch.as_tensor(layer.weight.mean) for layer in moments.values()]
    return NONZERO_MEAN if any(mean.any() for mean in means) else ZERO_MEAN


def _width(config: Mapping[str, Any]) -> str:
    return f"at least {WIDE}" if narrowest_width(config) >= WIDE else f"below {WIDE}"


def _select_quantities(comparison: TheoryComparison) -> TheoryComparison:
    def select(table: pd.DataFrame) -> pd.DataFrame:
        if table.empty:
            return table
        return table[(table["image"] == MEAN) & table["quantity"].isin(QUANTITIES)]

    return replace(
        comparison, draws=select(comparison.draws), predicted=select(comparison.predicted)
    )


def markdown(result: CoverageResult) -> str:
    """Format all tables as Markdown."""
    parts = [
        _numbers(result),
        "**Share of each method**",
        _share_table(result.rows),
        "Coverage: share of draws inside their 95 % interval, with its 95 % confidence interval "
        "(clustered by cell and by weight seed). Half-width: factor from the middle of the "
        "interval to its ends, median over layers. sd: standard deviation of the log-moment, "
        "median over layers. PIT: Kolmogorov distance of the draws' probability integral "
        "transform from the uniform distribution, and its p-value.",
        _calibration_table(result.rows, result.comparisons, COUNTED),
        _calibration_table(result.rows, result.comparisons, "method"),
    ]
    counted = result.rows[result.rows["method"] != SIMULATED]
    groups = [group for group in (WEIGHTS, "width", "depth", *GROUPS) if group in counted]
    if len(counted):
        parts += [
            f"The next tables leave out `{SIMULATED}` predictions, which "
            "agree with the measurement by construction.",
            *(_calibration_table(counted, result.comparisons, group) for group in groups),
            "**By quantity**",
            "Medians and quantiles are over layers.",
            _by_quantity(counted, result.hits),
        ]
    parts += [_disagreements(result), _unpredicted(result.comparisons)]
    return "\n\n".join(part for part in parts if part)


def _numbers(result: CoverageResult) -> str:
    outcomes = count_verdicts(result.rows)["outcome"].value_counts()
    explained, not_rejected, disagreeing = (
        outcomes.get(outcome, 0) for outcome in (EXPLAINED, NOT_REJECTED, DISAGREES)
    )
    not_tested = len(result.comparisons) - explained - not_rejected - disagreeing
    draws = int(result.rows["draws"].max())
    lines = [
        f"{len(result.comparisons)} cells of {draws} draws: {explained} explained (every layer "
        f"agrees with a prediction that is not simulated), {not_rejected} not rejected (no layer "
        f"disagrees after Holm's correction over all {len(result.rows)} layers and quantities), "
        f"{disagreeing} disagree, {not_tested} not tested.",
        "Tested and excluded layers and quantities:",
    ]
    kinds = result.rows["kind"].value_counts()
    rows = [[label, str(kinds.get(kind, 0))] for kind, label in EXCLUDED.items()]
    tested = ["tested", str(kinds.get("tested", 0))]
    return "\n\n".join([*lines, markdown_table(["", "layers x quantities"], [tested, *rows])])


def _share_table(rows: pd.DataFrame) -> str:
    """Return the number and share of layer quantities of each method, by mean of the weights."""
    counts = pd.crosstab(rows[WEIGHTS], rows["method"])
    others = [method for method in counts if method not in METHODS]
    counts = counts.reindex(columns=[*METHODS, *others], fill_value=0)
    cells = []
    for weights in counts.index:
        total = counts.loc[weights].sum()
        not_simulated = total - counts.loc[weights, SIMULATED]
        shares = [f"{n} ({n / total:.1%})" for n in (not_simulated, *counts.loc[weights])]
        cells.append([str(weights), str(total), *shares])
    header = [WEIGHTS, "layers x quantities", f"not {SIMULATED}", *map(str, counts.columns)]
    return markdown_table(header, cells)


def format_share(share: Coverage) -> str:
    return f"{share.share:.1%} ({share.low:.1%} to {share.high:.1%})"


def _option(comparison: TheoryComparison, group: str) -> str:
    values = comparison.setting.axis_values
    keys = [f"{k.partition('.')[2]}={v}" for k, v in values.items() if k.startswith(f"{group}.")]
    return " ".join([str(values.get(group, "")), *keys]).strip()


def _by_quantity(layers: pd.DataFrame, hits_of_draws: pd.DataFrame) -> str:
    rows = []
    for quantity, hits in hits_of_draws.groupby("quantity", sort=False):
        share = coverage(*(hits[column].to_numpy() for column in ("hit", "setting", "stream")))
        tested = layers[(layers["quantity"] == quantity) & (layers["kind"] == "tested")]
        ratio = np.exp(tested["log_ratio"].abs())
        rows.append(
            [
                str(quantity),
                format_share(share),
                f"{tested['sd_ratio'].median():.2f}",
                f"{ratio.median():.3f}",
                f"{ratio.quantile(0.95):.3f}",
            ]
        )
    header = ["quantity", "coverage", "standard deviation of the log moment, measured / predicted"]
    header += ["factor between the measured and the predicted mean (1 or more): median"]
    header += ["the same factor: 95 % quantile"]
    return markdown_table(header, rows)


def _calibration_table(
    rows: pd.DataFrame, comparisons: Sequence[TheoryComparison], key: str
) -> str:
    """Return the table of coverage, spread and distribution by direction and a column of rows."""
    cells = [
        [
            str(row[key]),
            row["direction"],
            str(row["settings"]),
            f"{row['layers']:,}",
            f"{row['coverage']:.1%} ({row['low']:.1%} to {row['high']:.1%})",
            f"x {row['factor']:.2f}",
            f"{row['sd_ratio']:.2f}",
            f"{row['pit_distance']:.3f}",
            f"{row['pit_p']:.2g}",
        ]
        for row in coverage_by(comparisons, rows, key).to_dict("records")
    ]
    header = [key, "direction", "cells", "layers x quantities", "coverage", "half-width"]
    header += ["sd: predicted / measured", "PIT distance", "PIT p"]
    return f"**By {key}**\n\n{markdown_table(header, cells)}" if cells else ""


def _depth(rows: pd.DataFrame) -> pd.Series:
    """Return the number of the layer in the direction of propagation, in groups of similar size."""
    first = rows.groupby("setting")["layer_order"].transform("min")
    backward = rows["quantity"].isin(BACKWARD)
    # `layer_order` is negative backward: -1 is the first layer of the network, reached last.
    depth = rows["layer_order"].where(~backward, rows["layer_order"] - first + 1)
    bins = [0, 1, 2, 4, 8, 16, np.inf]
    labels = ["1", "2", "3 to 4", "5 to 8", "9 to 16", "over 16"]
    return pd.cut(depth, bins, labels=labels).astype(object)


def _disagreements(result: CoverageResult) -> str:
    rows = [_first_disagreement(result, n, rows) for n, rows in _disagreeing(result.rows)]
    if not rows:
        return "No cell disagrees."
    header = ["cell", "layers that disagree", "first of these", "measured / predicted"]
    header += ["standard error", "sd of log, measured / predicted"]
    return "**Disagreeing cells**\n\n" + markdown_table(header, rows)


def _disagreeing(rows: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    disagreeing = rows[rows["verdict"] == DISAGREES].sort_values(["setting", "layer_order"])
    for setting, by_setting in disagreeing.groupby("setting"):
        yield int(str(setting)), by_setting


def _first_disagreement(
    result: CoverageResult, setting: int, disagreeing: pd.DataFrame
) -> list[str]:
    """Return the table row of a setting that disagrees, with its first layer that disagrees.

    That is the first layer with a disagreeing forward quantity. If there is none, it is the first
    with a disagreeing backward quantity, counted from the logits.
    """
    forward = disagreeing[~disagreeing["quantity"].isin(BACKWARD)]
    first = (forward if len(forward) else disagreeing).iloc[0]
    total = (result.rows["setting"] == setting).sum()
    ratio, error = np.exp(first["log_ratio"]), first["log_ratio_se"]
    return [
        result.comparisons[setting].setting.label,
        f"{len(disagreeing)} of {total}",
        f"{first['layer_name']} {first['quantity']} ({_disagreement_kind(first)})",
        f"{ratio:.3g}",
        f"{error:.1%}" if error < 1 else f"{error:.1f}",
        f"{first['sd_ratio']:.2f}",
    ]


def _disagreement_kind(row: pd.Series) -> str:
    """Return what disagrees: `moment`, `step` (change from the layer before) or the row's kind."""
    if row["kind"] != "tested":
        return str(row["kind"])
    return "step" if row["p_holm"] > 0.05 else "moment"


def _unpredicted(comparisons: Sequence[TheoryComparison]) -> str:
    lines = [f"- {c.setting.label}: {c.unpredicted}" for c in comparisons if c.unpredicted]
    return "\n".join(["**Not predicted**", "", *lines]) if lines else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Write or print a sweep's coverage tables."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.theory_coverage", description=__doc__.splitlines()[0]
    )
    add_sweep_arguments(parser)
    parser.add_argument(
        "--workers", type=int, default=1, help="number of processes for predictions (default: 1)"
    )
    parser.add_argument(
        "--write",
        metavar="PAGE",
        type=Path,
        help="write the tables into this page, between its marker lines (default: print them)",
    )
    args = parser.parse_args(argv)
    with exit_on_error():
        results = load(args.name, args.results, all=args.all)
        with prediction_progress() as on_predicted:
            comparisons = compare_to_theory(
                results, workers=args.workers, on_predicted=on_predicted
            )
        text = markdown(evaluate_coverage(comparisons))
        publish(text, args.write, args.name)


if __name__ == "__main__":
    main()
