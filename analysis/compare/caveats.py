"""What else to know before a ranking is believed, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.compare.comparison import Compared, Group
from analysis.compare.numbers import listed, many, percent
from analysis.compare.spec import Question


def caveats(group: Group, question: Question) -> Iterator[str]:
    """Who is not ranked and why, what diverged, what is missing, whose grid was too narrow."""
    yield from _unranked(group, question)
    yield from _diverging(group, question)
    yield from _missing(group)
    yield from _uneven(group, question)
    yield from _edges(group, question)


def not_yet(compared: Compared) -> list[str]:
    """Groups of which nothing can be told yet."""
    titles = compared.unended
    return [f"No cell has a result yet: {listed(titles)}."] if titles else []


def _unranked(group: Group, question: Question) -> Iterator[str]:
    out = group.standings[~group.standings["ranked"]]
    for row in out.to_dict("records"):
        why = (
            f"{row['seeds']} of {many(question.enough, 'seed')} needed"
            if row["seeds"]
            else "no score"
        )
        because = "; ".join(cause for cause in _causes(row, len(group.settings)) if cause)
        yield f"{row['strategy']} is not ranked: {why}{f' ({because})' if because else ''}."


def _causes(row: dict[str, Any], settings: int) -> Iterator[str]:
    if row["diverged"]:
        yield f"{row['diverged']} of {many(row['runs'], 'run')} diverged"
    if row["missing"]:
        yield f"{many(row['missing'], 'cell')} without a result"
    if row["settings"] < settings:
        yield f"planned in {row['settings']} of {settings} settings: --within tells them apart"


def _diverging(group: Group, question: Question) -> Iterator[str]:
    told = [
        f"{row['strategy']} {percent(row['diverged_all'], row['runs_all'])}"
        for row in group.standings.to_dict("records")
        if row["diverged_all"]
    ]
    if told:
        yield f"Diverged, of all runs: {listed(told)} ({question.measured.of_diverged})."


def _missing(group: Group) -> Iterator[str]:
    missing: pd.DataFrame = group.standings[group.standings["missing"] > 0]
    told = [
        f"{row['strategy']} {row['missing']} of {row['missing'] + row['runs_all']}"
        for row in missing.to_dict("records")
    ]
    if told:
        yield f"Not run or failed, of all cells: {listed(told)}. This may change with them."


def _uneven(group: Group, question: Question) -> Iterator[str]:
    tried = group.standings["tried"]
    if tried.nunique() > 1:
        told = [
            f"{name} {len(values)}"
            for name, values in zip(group.standings["strategy"], tried, strict=True)
        ]
        yield (
            f"Not all were tried at the same values of {question.tune} ({listed(told)} values): "
            "who has more to choose from may look better for that alone."
        )


def _edges(group: Group, question: Question) -> Iterator[str]:
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
            f"The best {question.tune} is the smallest or largest tried for {listed(told)}: "
            "a wider grid may change their places."
        )
