"""What a comparison supports, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.compare.compared import Compared, Group
from analysis.compare.numbers import chance, interval, listed, score
from analysis.compare.question import ENOUGH, Question


def of_group(group: Group, question: Question) -> list[str]:
    """Who is first, whom it surely beats, whom it is not told apart from; what else to know."""
    return [
        *_first(group, question),
        *_unranked(group, question),
        *_diverging(group, question),
        *_edges(group, question),
    ]


def of_all(compared: Compared) -> list[str]:
    """What the settings say together."""
    found = compared.overall
    if found is None:
        return []
    ranks, names = found.ranks, found.strategies
    apart = [
        name
        for name, rank in zip(names, ranks.average, strict=True)
        if rank - ranks.average[0] > ranks.critical_difference
    ]
    alike = [name for name in names[1:] if name not in apart]
    told = (
        f"Over {ranks.settings} settings {names[0]} has the best average rank, "
        f"{ranks.average[0]:.2f} of {len(names)}"
        f" ({_friedman(ranks.p)}ranks less than {ranks.critical_difference:.2f} apart are not told "
        f"apart, Nemenyi {compared.question.level:.0%}):"
    )
    parts = [
        f"surely better than {listed(apart)}" if apart else "",
        f"not told apart from {listed(alike)}" if alike else "",
    ]
    return [f"{told} {'; '.join(part for part in parts if part)}."]


def _first(group: Group, question: Question) -> Iterator[str]:
    metric = question.measured
    ranked = group.standings[group.standings["ranked"]]
    if ranked.empty:
        return
    first = ranked.iloc[0]
    against = group.pairs[group.pairs["a"] == first["strategy"]]
    surely = against["p_holm"] <= question.level
    best = "highest" if metric.larger_is_better else "lowest"
    yield (
        f"{first['strategy']} has the {best} mean {metric.words}, "
        f"{interval(first['mean'], first['low'], first['high'], metric)}, over {first['seeds']} "
        f"seed{'s' if first['seeds'] > 1 else ''}{_over(group)}."
    )
    if surely.any():
        told = [_than(row, question) for row in against[surely].to_dict("records")]
        yield f"It is surely better than {listed(told)}."
    if not surely.all() and len(against):
        told = [_than(row, question) for row in against[~surely].to_dict("records")]
        yield f"It is not told apart from {listed(told)}."


def _than(row: dict[str, Any], question: Question) -> str:
    difference = score(abs(row["difference"]), question.measured)
    p = float(row["p_holm"])
    return f"{row['b']} (by {difference}{'' if math.isnan(p) else f', p {_p(p)}'})"


def _p(value: float) -> str:
    told = chance(value)
    return told if told.startswith("<") else f"= {told}"


def _friedman(p: float) -> str:
    return "" if math.isnan(p) else f"Friedman p {_p(p)}; "


def _over(group: Group) -> str:
    number = len(group.settings)
    return f" and {number} settings" if number > 1 else ""


def _unranked(group: Group, question: Question) -> Iterator[str]:
    out = group.standings[~group.standings["ranked"]]
    for row in out.to_dict("records"):
        why = "no score" if not row["seeds"] else f"{row['seeds']} of {ENOUGH} seeds needed"
        causes = [
            f"{row['diverged']} of {row['runs']} runs diverged" if row["diverged"] else "",
            f"{row['missing']} cells have not ended" if row["missing"] else "",
        ]
        because = "; ".join(cause for cause in causes if cause)
        yield f"{row['strategy']} is not ranked: {why}{f' ({because})' if because else ''}."


def _diverging(group: Group, question: Question) -> Iterator[str]:
    shares = group.standings["diverged_all"] / group.standings["runs_all"].clip(lower=1)
    told = [
        f"{name} {share:.0%}"
        for name, share in zip(group.standings["strategy"], shares, strict=True)
        if share > 0
    ]
    if told:
        yield f"Diverged, of all runs: {listed(told)} ({question.measured.of_diverged})."


def _edges(group: Group, question: Question) -> Iterator[str]:
    edged: pd.DataFrame = group.standings[group.standings["at_edge"] > 0]
    if len(edged):
        yield (
            f"The best {question.tune} is the smallest or largest tried for "
            f"{listed(list(edged['strategy']))}: a wider grid may change their places."
        )
