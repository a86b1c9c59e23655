"""Coverage of theory's intervals over a sweep: docs/appendix/theory-coverage.md.

python -m analysis.studies.theory_coverage theory_grid --write docs/appendix/theory-coverage.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.cli import add_sweep_arguments, prediction_progress
from analysis.load import load
from analysis.studies.tables import markdown_table, publish
from analysis.theory_comparison import TheoryComparison, compare_to_theory
from analysis.verdicts import (
    BACKWARD,
    LAYER,
    WIDE,
    compute_verdicts,
    count_verdicts,
    layers_with_spread,
    mark_interval_hits,
    narrowest_width,
)
from experiments.console import exit_on_error
from fanin.statistics.agreement import DISAGREES
from fanin.statistics.coverage import Coverage, Z, coverage

MEAN = -1  # over the probe set, which is one image in these sweeps
EXCLUDED = {
    "zero": "zero in some draw or in theory (dead, or rounded to zero by float32)",
    "constant": "the same in every draw",
    "overflowed": "overflowed in some draw or in theory",
    "unpredicted": "no prediction",
}
QUANTITIES = ("preact_m2", "preact_var", "vjp_m2", "weight_vjp_m2")
"""What is counted: the moments that theory gives an interval for."""


@dataclass(frozen=True)
class CoverageResult:
    """A sweep held against theory.

    Attributes
    ----------
    comparisons
        Its settings.
    rows
        A row per setting, quantity and layer, as `analysis.verdicts.compute_verdicts`.
    hits
        A row per draw of each row that was tested: `hit`, whether it fell into its interval.
    """

    comparisons: Sequence[TheoryComparison]
    rows: pd.DataFrame
    hits: pd.DataFrame


def evaluate_coverage(comparisons: Sequence[TheoryComparison]) -> CoverageResult:
    """Test every layer of every setting, and see which draws fell into their intervals."""
    mine = [_counted(comparison) for comparison in comparisons]
    rows = compute_verdicts(mine)
    return CoverageResult(mine, rows, mark_interval_hits(mine, layers_with_spread(rows)))


def _counted(comparison: TheoryComparison) -> TheoryComparison:
    def kept(table: pd.DataFrame) -> pd.DataFrame:
        if table.empty:
            return table
        return table[(table["image"] == MEAN) & table["quantity"].isin(QUANTITIES)]

    return replace(comparison, draws=kept(comparison.draws), predicted=kept(comparison.predicted))


def markdown(result: CoverageResult) -> str:
    """The whole block."""
    parts = [
        _numbers(result),
        "Coverage at nominal 95 %, with its own 95 % interval (clustered by cell and by weight "
        "seed), and the median over layers of half an interval's width, as a factor.",
        _coverage_table("", {"all cells": lambda c: True}, result),
        _coverage_table("by width", _by_width(result.comparisons), result),
        *(_coverage_table(f"by {group}", _by(result, group), result) for group in _groups(result)),
        "**By quantity**",
        _by_quantity(result),
        _not_explained(result),
        _unpredicted(result.comparisons),
    ]
    return "\n\n".join(part for part in parts if part)


def _numbers(result: CoverageResult) -> str:
    outcomes = count_verdicts(result.rows)["outcome"].value_counts()
    explained, off = outcomes.get("explained", 0), outcomes.get(DISAGREES, 0)
    untested = len(result.comparisons) - explained - off
    draws = int(result.rows["draws"].max())
    lines = [
        f"{len(result.comparisons)} cells of {draws} draws: {explained} explained (no layer "
        f"disagrees after Holm's correction over all {len(result.rows)} layers and quantities), "
        f"{off} not explained, {untested} not tested.",
        "Excluded, of those layers and quantities:",
    ]
    kinds = result.rows["kind"].value_counts()
    rows = [[words, str(kinds.get(kind, 0))] for kind, words in EXCLUDED.items()]
    tested = ["tested", str(kinds.get("tested", 0))]
    return "\n\n".join([*lines, markdown_table(["", "layers x quantities"], [tested, *rows])])


Selector = Callable[[TheoryComparison], bool]


def _coverage_table(title: str, groups: Mapping[str, Selector], result: CoverageResult) -> str:
    rows = []
    for name, chosen in groups.items():
        numbers = [n for n, c in enumerate(result.comparisons) if chosen(c)]
        cells = [name, str(len(numbers))]
        for backward in (False, True):
            cells += _cells(result, numbers, backward)
        rows.append(cells)
    sides = [f"{side}{words}" for side in ("forward", "backward") for words in ("", ": width")]
    table = markdown_table([title or "all", "cells", *sides], rows)
    return f"**{title.capitalize()}**\n\n{table}" if title else table


def _cells(result: CoverageResult, numbers: Sequence[int], backward: bool) -> list[str]:
    hits = result.hits[result.hits["setting"].isin(numbers)]
    hits = hits[hits["quantity"].isin(BACKWARD) == backward]
    if hits.empty:
        return ["-", "-"]
    share = coverage(*(hits[column].to_numpy() for column in ("hit", "setting", "stream")))
    spread = hits.drop_duplicates(LAYER)["log_sd"].median()
    return [format_share(share), f"x {np.exp(Z * spread):.2f}"]


def format_share(share: Coverage) -> str:
    return f"{share.share:.1%} ({share.low:.1%} to {share.high:.1%})"


def _by_width(comparisons: Sequence[TheoryComparison]) -> dict[str, Selector]:
    widths = {id(c): narrowest_width(c.setting.config) for c in comparisons}
    return {
        f"{WIDE} and more": lambda c: widths[id(c)] >= WIDE,
        f"below {WIDE}": lambda c: widths[id(c)] < WIDE,
    }


def _groups(result: CoverageResult) -> list[str]:
    words = [c.setting.axis_values for c in result.comparisons]
    return [
        g for g in ("model", "activation", "init", "data", "scaling") if any(g in w for w in words)
    ]


def _by(result: CoverageResult, group: str) -> dict[str, Selector]:
    names = dict.fromkeys(_option(c, group) for c in result.comparisons)
    return {name: partial(_has, group, name) for name in names}


def _has(group: str, name: str, comparison: TheoryComparison) -> bool:
    return _option(comparison, group) == name


def _option(comparison: TheoryComparison, group: str) -> str:
    words = comparison.setting.axis_values
    own = [f"{k.partition('.')[2]}={v}" for k, v in words.items() if k.startswith(f"{group}.")]
    return " ".join([str(words.get(group, "")), *own]).strip()


def _by_quantity(result: CoverageResult) -> str:
    rows = []
    for quantity, hits in result.hits.groupby("quantity", sort=False):
        share = coverage(*(hits[column].to_numpy() for column in ("hit", "setting", "stream")))
        own = result.rows[(result.rows["quantity"] == quantity) & (result.rows["kind"] == "tested")]
        ratio = np.exp(own["log_ratio"].abs())
        rows.append(
            [
                str(quantity),
                format_share(share),
                f"{own['sd_ratio'].median():.2f}",
                f"{ratio.median():.3f}",
                f"{ratio.quantile(0.95):.3f}",
            ]
        )
    header = ["quantity", "coverage", "sd of log: measured / predicted, median"]
    header += ["mean: off by a factor of, median", "95 % of layers within"]
    return markdown_table(header, rows)


def _not_explained(result: CoverageResult) -> str:
    rows = [_reason(result, n, off) for n, off in _off(result.rows)]
    if not rows:
        return "Every tested cell is explained."
    header = ["cell", "layers off", "first off", "measured / predicted", "error", "sd ratio"]
    return "**Not explained**\n\n" + markdown_table(header, rows)


def _off(rows: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    off = rows[rows["verdict"] == DISAGREES].sort_values(["setting", "layer_order"])
    for setting, mine in off.groupby("setting"):
        yield int(str(setting)), mine


def _reason(result: CoverageResult, setting: int, off: pd.DataFrame) -> list[str]:
    """Find where a cell first disagrees: forward if anywhere, else backward from the logits."""
    forward = off[~off["quantity"].isin(BACKWARD)]
    first = (forward if len(forward) else off).iloc[0]
    total = (result.rows["setting"] == setting).sum()
    ratio, error = np.exp(first["log_ratio"]), first["log_ratio_se"]
    return [
        result.comparisons[setting].setting.label,
        f"{len(off)} of {total}",
        f"{first['layer_name']} {first['quantity']} ({_how(first)})",
        f"{ratio:.3g}",
        f"{error:.1%}" if error < 1 else f"{error:.1f}",
        f"{first['sd_ratio']:.2f}",
    ]


def _how(row: pd.Series) -> str:
    """By what a layer disagrees: its moment, its step from the layer before, or kind alone."""
    if row["kind"] != "tested":
        return str(row["kind"])
    return "step" if row["p_holm"] > 0.05 else "moment"


def _unpredicted(comparisons: Sequence[TheoryComparison]) -> str:
    lines = [f"- {c.setting.label}: {c.unpredicted}" for c in comparisons if c.unpredicted]
    return "\n".join(["**Not predicted**", "", *lines]) if lines else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Judge a sweep, and write or print its page."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.theory_coverage", description=__doc__.splitlines()[0]
    )
    add_sweep_arguments(parser)
    parser.add_argument("--workers", type=int, default=1, help="processes that predict")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put the tables there")
    args = parser.parse_args(argv)
    with exit_on_error():
        results = load(args.name, args.results)
        with prediction_progress() as on_predicted:
            comparisons = compare_to_theory(
                results, workers=args.workers, on_predicted=on_predicted
            )
        text = markdown(evaluate_coverage(comparisons))
        publish(text, args.write, args.name)


if __name__ == "__main__":
    main()
