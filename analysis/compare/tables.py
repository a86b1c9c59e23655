"""A comparison's tables as text, for the terminal, LaTeX and the report; formats of its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.compare.comparison import Group, InitComparison
from analysis.compare.spec import ComparisonSpec, Metric

MISSING = "–"


def standings_table(group: Group, spec: ComparisonSpec) -> pd.DataFrame:
    """A row per strategy, best first, all text.

    Each is held against the first: the difference (paired over seeds), its p-value, and how
    probable it is that a run of the first beats one of it.
    """
    metric = spec.metric_info
    against = group.pairs[group.pairs["a"] == _first(group)].set_index("b")
    tunes = not _untuned(group)
    rows = []
    for row in group.standings.to_dict("records"):
        name = row["strategy"]
        pair = against.loc[name] if name in against.index else None
        told = {
            spec.by: name,
            f"{metric.label}, mean (95 %)": format_interval(
                row["mean"], row["low"], row["high"], metric
            ),
            "seeds": _of(row["seeds"], row["seeds_planned"]),
            "IQM (95 %)": format_interval(row["iqm"], row["iqm_low"], row["iqm_high"], metric),
            "first minus it (95 %)": "" if pair is None else _difference(pair, spec),
            "p (Holm)": "" if pair is None else format_p(pair["p_holm"]),
            "P(first beats it)": "" if pair is None else f"{_beats(pair):.2f}",
        }
        if tunes:
            edge = (
                f" (edge in {format_count(row['at_edge'], row['settings'])})"
                if row["at_edge"]
                else ""
            )
            told[f"best {_short(spec.tune)}"] = format_range(row["best"]) + edge
            told[f"cost of {_short(spec.tune)}"] = format_score(row["cost"], metric)
        told["diverged"] = format_count(row["diverged"], row["runs"])
        if tunes:
            told[f"diverged, every {_short(spec.tune)}"] = format_count(
                row["diverged_all"], row["runs_all"]
            )
        if group.standings["missing"].any():
            told["missing"] = str(row["missing"])
        rows.append(told)
    return pd.DataFrame(rows)


def ranks_table(compared: InitComparison) -> pd.DataFrame:
    """Average ranks over all settings, best first; empty where there are fewer than two."""
    if compared.overall is None:
        return pd.DataFrame()
    ranks = compared.overall.ranks
    return pd.DataFrame(
        {
            compared.spec.by: compared.overall.strategies,
            f"average rank over {ranks.settings} settings": [f"{r:.2f}" for r in ranks.average],
        }
    )


def legend(compared: InitComparison) -> str:
    """Explain the columns."""
    metric, tune = compared.spec.metric_info, _short(compared.spec.tune)
    tuned = not all(map(_untuned, compared.groups))
    at = f", each at the {tune} with its lowest training loss" if tuned else ""
    lost = "" if metric.bounded else " with no more runs diverged than there"
    cost = f"Cost of {tune}: the best mean less the mean over all that were tried{lost}. "
    return (
        f"Mean over seeds of the {metric.label}, averaged over the group's settings{at}; "
        f"95 % intervals: t below 10 seeds, BCa bootstrap from there on. "
        f"IQM: interquartile mean of all runs. First minus it: paired over seeds, t-test, Holm's "
        f"correction over all pairs of all groups. {cost if tuned else ''}"
        f"Diverged: {metric.diverged_note}."
    )


def _difference(pair: pd.Series, spec: ComparisonSpec) -> str:
    metric = spec.metric_info
    return format_interval(pair["difference"], pair["low"], pair["high"], metric, sign=True)


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


def format_score(value: float, metric: Metric, sign: bool = False) -> str:
    """Three digits; those of an accuracy after the point.

    >>> from analysis.compare.spec import METRICS
    >>> format_score(0.91234, METRICS["test_accuracy"]), format_score(2.30258, METRICS["test_loss"], sign=True)
    ('0.912', '+2.3')
    """
    if not np.isfinite(value):
        return MISSING
    plus = "+" if sign else ""
    return f"{value:{plus}.3f}" if metric.bounded else f"{value:{plus}.3g}"


def format_interval(
    value: float, low: float, high: float, metric: Metric, sign: bool = False
) -> str:
    """An estimate with its interval, `0.912 (0.905 to 0.919)`."""
    told = format_score(value, metric, sign)
    if not (np.isfinite(low) and np.isfinite(high)):
        return told
    return f"{told} ({format_score(low, metric, sign)} to {format_score(high, metric, sign)})"


def format_p(p: float) -> str:
    """A p-value or a parse_probability.

    >>> format_p(0.00004), format_p(0.0312), format_p(float("nan"))
    ('<0.001', '0.031', '–')
    """
    if np.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def format_count(part: int, of: int) -> str:
    """Format a count with its total; empty where the count is 0.

    >>> format_count(0, 60), format_count(12, 60)
    ('0', '12 of 60')
    """
    return f"{part} of {of}" if part else "0"


def format_percent(part: float, of: float) -> str:
    """A share that is never told as nothing, nor as all, unless it is.

    >>> format_percent(0, 60), format_percent(1, 600), format_percent(599, 600), format_percent(60, 60), format_percent(2, 7)
    ('0%', '<1%', '>99%', '100%', '29%')
    """
    told = f"{part / of:.0%}" if of else "0%"
    if part and told == "0%":
        return "<1%"
    return ">99%" if part < of and told == "100%" else told


def plural(number: int, what: str) -> str:
    """A number of things.

    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def format_range(values: Sequence[float]) -> str:
    """Distinct values, ascending, in short.

    >>> format_range([0.01]), format_range([0.003, 0.01]), format_range([])
    ('0.01', '0.003 to 0.01', '–')
    """
    if not len(values) or np.isnan(values[0]):
        return MISSING
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def join_names(names: Sequence[str]) -> str:
    """Names as a sentence has them.

    >>> join_names(["a"]), join_names(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
