"""Sentences on the results of a comparison, and its caveats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.compare.comparison import Group, InitComparison
from analysis.compare.spec import ComparisonSpec
from analysis.compare.tables import (
    format_interval,
    format_p,
    format_percent,
    format_score,
    join_names,
    plural,
)
from fanin.statistics.strategies import Ranks

ROUNDING = 1e-9


def group_sentences(group: Group, spec: ComparisonSpec) -> list[str]:
    """Return sentences on one group: the first strategy, significant differences and caveats."""
    return [*_first_sentences(group, spec), *caveats(group, spec)]


def overall_sentences(comparison: InitComparison) -> list[str]:
    """Return the result over all settings as a list of at most one sentence."""
    overall = comparison.overall
    if overall is None:
        return []
    ranks, names = overall.ranks, overall.strategies
    differences = ranks.average - ranks.average[0]
    worse = [
        name
        for name, difference in zip(names, differences, strict=True)
        if _is_significant(difference, ranks)
    ]
    leaders = [
        name
        for name, difference in zip(names, differences, strict=True)
        if math.isclose(difference, 0, abs_tol=1e-9)
    ]
    similar = [name for name in names if name not in (*worse, *leaders)]
    verb = "has" if len(leaders) == 1 else "share"
    ranking = (
        f"Over {ranks.settings} settings, {join_names(leaders)} {verb} the best average rank, "
        f"{ranks.average[0]:.2f} of {len(names)} ({_friedman(ranks.p)}{_threshold(comparison)})"
    )
    parts = [
        f"significantly better than {join_names(worse)}" if worse else "",
        f"not significantly different from {join_names(similar)}" if similar else "",
    ]
    differences_text = "; ".join(part for part in parts if part)
    return [f"{ranking}{': ' if differences_text else ''}{differences_text}."]


def _is_significant(difference: float, ranks: Ranks) -> bool:
    # Average ranks are sums of halves and may equal the critical difference up to rounding.
    return difference >= ranks.critical_difference - ROUNDING


def _threshold(comparison: InitComparison) -> str:
    overall = comparison.overall
    assert overall is not None
    two, level = len(overall.strategies) == 2, f"{100 * comparison.spec.level:g}%"
    test = f"{'sign test' if two else 'Nemenyi test'}, {level}"
    critical = overall.ranks.critical_difference
    if math.isinf(critical):
        return f"too few settings for a significant difference; {test}"
    return f"rank differences below {critical:.2f} are not significant; {test}"


def _first_sentences(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    ranked = group.standings[group.standings["ranked"]]
    if ranked.empty:
        return
    first = str(ranked["strategy"].iloc[0])
    leaders = list(
        ranked.loc[np.isclose(ranked["mean"], ranked["mean"].iloc[0], 1e-9, 0)]["strategy"]
    )
    yield _leader_sentence(leaders, ranked, group, spec)
    pairs = group.pairs[group.pairs["a"] == first]
    gain = spec.metric_info.sign * pairs["difference"]
    significant = pairs["p_holm"] <= spec.level
    subject = "It" if len(leaders) == 1 else first
    for selected, predicate in (
        (significant & (gain > 0), "is significantly better than"),
        (significant & (gain < 0), "is significantly worse, on the seeds that both have, than"),
        (~significant & pairs["p"].notna(), "is not significantly different from"),
    ):
        if selected.any():
            others = [_with_difference(row, spec) for row in pairs[selected].to_dict("records")]
            yield f"{subject} {predicate} {join_names(others)}."
    if (untested := pairs[pairs["p"].isna()]["b"]).size:
        yield f"{subject} has too few seeds in common with {join_names(list(untested))} for a test."


def _leader_sentence(
    leaders: list[str], ranked: pd.DataFrame, group: Group, spec: ComparisonSpec
) -> str:
    metric, first = spec.metric_info, ranked.iloc[0]
    best = "highest" if metric.larger_is_better else "lowest"
    mean = format_interval(first["mean"], first["low"], first["high"], metric)
    seeds = plural(first["seeds"], "seed")
    if first["seeds"] < first["seeds_planned"]:
        seeds = f"{first['seeds']} of {plural(first['seeds_planned'], 'seed')}"
    number = len(group.settings)
    over = f"over {seeds}" + (f" and {number} settings" if number > 1 else "")
    if len(ranked) == 1:
        return f"Only {first['strategy']} is ranked: mean {metric.label} {mean}, {over}."
    if len(leaders) > 1:
        mean = format_score(first["mean"], metric)
        return f"{join_names(leaders)} share the {best} mean {metric.label}, {mean}, {over}."
    return f"{first['strategy']} has the {best} mean {metric.label}, {mean}, {over}."


def _with_difference(row: dict[str, Any], spec: ComparisonSpec) -> str:
    difference = format_score(abs(row["difference"]), spec.metric_info)
    return f"{row['b']} (by {difference}, p {_p_value(float(row['p_holm']))})"


def _p_value(value: float) -> str:
    text = format_p(value)
    return text if text.startswith("<") else f"= {text}"


def _friedman(p: float) -> str:
    return "" if math.isnan(p) else f"Friedman test, p {_p_value(p)}; "


def caveats(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    """Yield sentences on unranked strategies, diverged and missing cells, and narrow grids."""
    yield from _unranked(group, spec)
    yield from _diverged(group, spec)
    yield from _missing(group)
    yield from _unequal_grids(group, spec)
    yield from _grid_edges(group, spec)


def missing_sentences(comparison: InitComparison) -> list[str]:
    """Name the groups without any result."""
    titles = comparison.without_results
    return [f"No cell has a result yet in {join_names(titles)}."] if titles else []


def _unranked(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    unranked = group.standings[~group.standings["ranked"]]
    for row in unranked.to_dict("records"):
        reason = (
            f"{plural(row['seeds'], 'seed')} with a score, {spec.min_seeds} needed"
            if row["seeds"]
            else "no score"
        )
        causes = "; ".join(_causes(row, len(group.settings)))
        yield f"{row['strategy']} is not ranked: {reason}{f' ({causes})' if causes else ''}."


def _causes(row: dict[str, Any], settings: int) -> Iterator[str]:
    if row["diverged"]:
        yield f"{row['diverged']} of {plural(row['runs'], 'run')} diverged"
    if row["missing"]:
        yield f"{plural(row['missing'], 'cell')} without a result"
    if row["settings"] < settings:
        yield (
            f"planned in {row['settings']} of {settings} settings; use --within to compare "
            "them separately"
        )


def _diverged(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    shares = [
        f"{row['strategy']} {format_percent(row['diverged_all'], row['runs_all'])}"
        for row in group.standings.to_dict("records")
        if row["diverged_all"]
    ]
    if shares:
        yield (
            f"Share of all runs that diverged: {join_names(shares)} "
            f"({spec.metric_info.diverged_note})."
        )


def _missing(group: Group) -> Iterator[str]:
    missing: pd.DataFrame = group.standings[group.standings["missing"] > 0]
    counts = [
        f"{row['strategy']} {row['missing']} of {row['missing'] + row['runs_all']}"
        for row in missing.to_dict("records")
    ]
    if counts:
        yield f"Cells not run or failed: {join_names(counts)}. They may change the ranking."


def _unequal_grids(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    tried = group.standings["tried"]
    if tried.nunique() > 1:
        counts = [
            f"{name} {len(values)}"
            for name, values in zip(group.standings["strategy"], tried, strict=True)
        ]
        yield (
            f"The strategies were tried at different values of {spec.tune} (numbers of values: "
            f"{join_names(counts)}). A strategy with more values to choose from may look better "
            "for that reason alone."
        )


def _grid_edges(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    at_edge: pd.DataFrame = group.standings[group.standings["at_edge"] > 0]
    many_settings = len(group.settings) > 1
    names = [
        f"{row['strategy']} (in {row['at_edge']} of {row['settings']} settings)"
        if many_settings
        else str(row["strategy"])
        for row in at_edge.to_dict("records")
    ]
    if names:
        yield (
            f"The best {spec.tune} is the smallest or largest tried for {join_names(names)}; "
            "the ranking may change with smaller or larger values."
        )
