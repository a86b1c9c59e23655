"""A comparison's tables for people: on the terminal, in LaTeX, in the report."""

from __future__ import annotations

import pandas as pd

from analysis.compare.comparison import Compared, Group
from analysis.compare.numbers import chance, interval, score, share, span
from analysis.compare.spec import Question


def standings_table(group: Group, question: Question) -> pd.DataFrame:
    """A row per strategy, best first, all text.

    Each is held against the first: the difference (paired over seeds), its p-value, and how
    probable it is that a run of the first beats one of it.
    """
    metric = question.measured
    against = group.pairs[group.pairs["a"] == _first(group)].set_index("b")
    tunes = not _untuned(group)
    rows = []
    for row in group.standings.to_dict("records"):
        name = row["strategy"]
        pair = against.loc[name] if name in against.index else None
        told = {
            question.by: name,
            f"{metric.words}, mean (95 %)": interval(row["mean"], row["low"], row["high"], metric),
            "seeds": _of(row["seeds"], row["of_seeds"]),
            "IQM (95 %)": interval(row["iqm"], row["iqm_low"], row["iqm_high"], metric),
            "first minus it (95 %)": "" if pair is None else _difference(pair, question),
            "p (Holm)": "" if pair is None else chance(pair["p_holm"]),
            "P(first beats it)": "" if pair is None else f"{_beats(pair):.2f}",
        }
        if tunes:
            edge = f" (edge in {share(row['at_edge'], row['settings'])})" if row["at_edge"] else ""
            told[f"best {_short(question.tune)}"] = span(row["best"]) + edge
            told[f"cost of {_short(question.tune)}"] = score(row["cost"], metric)
        told["diverged"] = share(row["diverged"], row["runs"])
        if tunes:
            told[f"diverged, every {_short(question.tune)}"] = share(
                row["diverged_all"], row["runs_all"]
            )
        if group.standings["missing"].any():
            told["missing"] = str(row["missing"])
        rows.append(told)
    return pd.DataFrame(rows)


def ranks_table(compared: Compared) -> pd.DataFrame:
    """Average ranks over all settings, best first; empty where there are fewer than two."""
    if compared.overall is None:
        return pd.DataFrame()
    ranks = compared.overall.ranks
    return pd.DataFrame(
        {
            compared.question.by: compared.overall.strategies,
            f"average rank over {ranks.settings} settings": [f"{r:.2f}" for r in ranks.average],
        }
    )


def legend(compared: Compared) -> str:
    """What the columns mean."""
    metric, tune = compared.question.measured, _short(compared.question.tune)
    tuned = not all(map(_untuned, compared.groups))
    at = f", each at the {tune} with its lowest training loss" if tuned else ""
    lost = "" if metric.bounded else " with no more runs diverged than there"
    cost = f"Cost of {tune}: the best mean less the mean over all that were tried{lost}. "
    return (
        f"Mean over seeds of the {metric.words}, averaged over the group's settings{at}; "
        f"95 % intervals: t below 10 seeds, BCa bootstrap from there on. "
        f"IQM: interquartile mean of all runs. First minus it: paired over seeds, t-test, Holm's "
        f"correction over all pairs of all groups. {cost if tuned else ''}"
        f"Diverged: {metric.of_diverged}."
    )


def _difference(pair: pd.Series, question: Question) -> str:
    metric = question.measured
    return interval(pair["difference"], pair["low"], pair["high"], metric, sign=True)


def _beats(pair: pd.Series) -> float:
    return float(pair["improvement"])


def _of(part: int, whole: int) -> str:
    return str(part) if part == whole else f"{part} of {whole}"


def _first(group: Group) -> str:
    return str(group.standings["strategy"].iloc[0])


def _untuned(group: Group) -> bool:
    return not group.standings["tried"].map(len).any()


def _short(key: str) -> str:
    """`lr` of `optim.lr`."""
    return key.rpartition(".")[2] or "tuned value"
