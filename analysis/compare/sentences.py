"""Sentences that a comparison supports, and its caveats."""

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
    """Say who is first, what it beats, what it can't be told from, and what else matters."""
    return [*_first(group, spec), *caveats(group, spec)]


def overall_sentences(compared: InitComparison) -> list[str]:
    """Say what the settings show together."""
    found = compared.overall
    if found is None:
        return []
    ranks, names = found.ranks, found.strategies
    behind = ranks.average - ranks.average[0]
    # Average ranks are sums of halves: what is equal to the critical difference must not miss it.
    apart = [n for n, far in zip(names, behind, strict=True) if _reaches(far, ranks)]
    leaders = [
        n for n, far in zip(names, behind, strict=True) if math.isclose(far, 0, abs_tol=1e-9)
    ]
    alike = [name for name in names if name not in (*apart, *leaders)]
    has = "has the best average rank" if len(leaders) == 1 else "share the best average rank"
    told = (
        f"Over {ranks.settings} settings {join_names(leaders)} {has}, "
        f"{ranks.average[0]:.2f} of {len(names)} ({_friedman(ranks.p)}{_needed(compared)})"
    )
    parts = [
        f"better than {join_names(apart)}" if apart else "",
        f"not told apart from {join_names(alike)}" if alike else "",
    ]
    said = "; ".join(part for part in parts if part)
    return [f"{told}{': ' if said else ''}{said}."]


def _reaches(far: float, ranks: Ranks) -> bool:
    return far >= ranks.critical_difference - ROUNDING


def _needed(compared: InitComparison) -> str:
    found = compared.overall
    assert found is not None
    two, level = len(found.strategies) == 2, f"{100 * compared.spec.level:g}%"
    test = f"{'sign test' if two else 'Nemenyi'}, {level}"
    if math.isinf(found.ranks.critical_difference):
        return f"too few settings to tell two apart; {test}"
    return f"ranks less than {found.ranks.critical_difference:.2f} apart are not told apart; {test}"


def _first(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    ranked = group.standings[group.standings["ranked"]]
    if ranked.empty:
        return
    first = str(ranked["strategy"].iloc[0])
    leaders = list(
        ranked.loc[np.isclose(ranked["mean"], ranked["mean"].iloc[0], 1e-9, 0)]["strategy"]
    )
    yield _leading(leaders, ranked, group, spec)
    against = group.pairs[group.pairs["a"] == first]
    gain = spec.metric_info.sign * against["difference"]
    found = against["p_holm"] <= spec.level
    it = "It" if len(leaders) == 1 else first
    for which, words in (
        (found & (gain > 0), "is better than"),
        (found & (gain < 0), "is, on the seeds that both have, worse than"),
        (~found & against["p"].notna(), "is not told apart from"),
    ):
        if which.any():
            told = [_than(row, spec) for row in against[which].to_dict("records")]
            yield f"{it} {words} {join_names(told)}."
    if (untested := against[against["p"].isna()]["b"]).size:
        yield f"It has too few seeds in common with {join_names(list(untested))} for a test."


def _leading(leaders: list[str], ranked: pd.DataFrame, group: Group, spec: ComparisonSpec) -> str:
    metric, first = spec.metric_info, ranked.iloc[0]
    best = "highest" if metric.larger_is_better else "lowest"
    mean = format_interval(first["mean"], first["low"], first["high"], metric)
    seeds = plural(first["seeds"], "seed")
    if first["seeds"] < first["seeds_planned"]:
        seeds = f"{first['seeds']} of {plural(first['seeds_planned'], 'seed')}"
    over = f"over {seeds}{_over(group)}"
    if len(ranked) == 1:
        return f"Only {first['strategy']} is ranked: mean {metric.label} {mean}, {over}."
    if len(leaders) > 1:
        same = format_score(first["mean"], metric)
        return f"{join_names(leaders)} share the {best} mean {metric.label}, {same}, {over}."
    return f"{first['strategy']} has the {best} mean {metric.label}, {mean}, {over}."


def _than(row: dict[str, Any], spec: ComparisonSpec) -> str:
    difference = format_score(abs(row["difference"]), spec.metric_info)
    return f"{row['b']} (by {difference}, p {_p(float(row['p_holm']))})"


def _p(value: float) -> str:
    told = format_p(value)
    return told if told.startswith("<") else f"= {told}"


def _friedman(p: float) -> str:
    return "" if math.isnan(p) else f"Friedman p {_p(p)}; "


def _over(group: Group) -> str:
    number = len(group.settings)
    return f" and {number} settings" if number > 1 else ""


def caveats(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    """Name what is not ranked and why, what diverged or is missing, and grids too narrow."""
    yield from _unranked(group, spec)
    yield from _diverging(group, spec)
    yield from _missing(group)
    yield from _uneven(group, spec)
    yield from _edges(group, spec)


def missing_sentences(compared: InitComparison) -> list[str]:
    """Groups of which nothing can be told yet."""
    titles = compared.without_results
    return [f"No cell has a result yet: {join_names(titles)}."] if titles else []


def _unranked(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    out = group.standings[~group.standings["ranked"]]
    for row in out.to_dict("records"):
        why = (
            f"{row['seeds']} of {plural(spec.min_seeds, 'seed')} needed"
            if row["seeds"]
            else "no score"
        )
        because = "; ".join(cause for cause in _causes(row, len(group.settings)) if cause)
        yield f"{row['strategy']} is not ranked: {why}{f' ({because})' if because else ''}."


def _causes(row: dict[str, Any], settings: int) -> Iterator[str]:
    if row["diverged"]:
        yield f"{row['diverged']} of {plural(row['runs'], 'run')} diverged"
    if row["missing"]:
        yield f"{plural(row['missing'], 'cell')} without a result"
    if row["settings"] < settings:
        yield f"planned in {row['settings']} of {settings} settings: --within tells them apart"


def _diverging(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    told = [
        f"{row['strategy']} {format_percent(row['diverged_all'], row['runs_all'])}"
        for row in group.standings.to_dict("records")
        if row["diverged_all"]
    ]
    if told:
        yield f"Diverged, of all runs: {join_names(told)} ({spec.metric_info.diverged_note})."


def _missing(group: Group) -> Iterator[str]:
    missing: pd.DataFrame = group.standings[group.standings["missing"] > 0]
    told = [
        f"{row['strategy']} {row['missing']} of {row['missing'] + row['runs_all']}"
        for row in missing.to_dict("records")
    ]
    if told:
        yield f"Not run or failed, of all cells: {join_names(told)}. This may change with them."


def _uneven(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    tried = group.standings["tried"]
    if tried.nunique() > 1:
        told = [
            f"{name} {len(values)}"
            for name, values in zip(group.standings["strategy"], tried, strict=True)
        ]
        yield (
            f"Not all were tried at the same values of {spec.tune} ({join_names(told)} values): "
            "who has more to choose from may look better for that alone."
        )


def _edges(group: Group, spec: ComparisonSpec) -> Iterator[str]:
    edged: pd.DataFrame = group.standings[group.standings["at_edge"] > 0]
    many_settings = len(group.settings) > 1
    told = [
        f"{row['strategy']} (in {row['at_edge']} of {row['settings']} settings)"
        if many_settings
        else str(row["strategy"])
        for row in edged.to_dict("records")
    ]
    if told:
        yield (
            f"The best {spec.tune} is the smallest or largest tried for {join_names(told)}: "
            "a wider grid may change their places."
        )
