"""Tables of a comparison as text, for the terminal, LaTeX and the report, and number formats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.compare.comparison import Group, InitComparison
from analysis.compare.spec import ComparisonSpec, Metric

MISSING = "–"


def standings_table(group: Group, spec: ComparisonSpec) -> pd.DataFrame:
    """Return one row of text per strategy, best first.

    Each strategy is compared with the first one: difference (paired over seeds), p-value, and
    probability that a run of the first strategy beats one of this strategy.
    """
    metric = spec.metric_info
    pairs = group.pairs[group.pairs["a"] == _first(group)].set_index("b")
    tuned = not _untuned(group)
    tuned_name = _short_key(spec.tune)
    rows = []
    for standing in group.standings.to_dict("records"):
        name = standing["strategy"]
        pair = pairs.loc[name] if name in pairs.index else None
        mean = (standing["mean"], standing["low"], standing["high"])
        iqm = (standing["iqm"], standing["iqm_low"], standing["iqm_high"])
        row = {
            spec.by: name,
            f"{metric.label}, mean (95 %)": format_interval(*mean, metric),
            "seeds": _format_part(standing["seeds"], standing["seeds_planned"]),
            "IQM (95 %)": format_interval(*iqm, metric),
            "first - this (95 %)": "" if pair is None else _difference(pair, spec),
            "p (Holm)": "" if pair is None else format_p(pair["p_holm"]),
            "P(first beats this)": "" if pair is None else f"{pair['improvement']:.2f}",
        }
        if tuned:
            edges = format_count(standing["at_edge"], standing["settings"])
            suffix = f" (at the edge in {edges})" if standing["at_edge"] else ""
            row[f"best {tuned_name}"] = format_range(standing["best"]) + suffix
            row[f"cost of {tuned_name}"] = format_score(standing["cost"], metric)
        row["diverged"] = format_count(standing["diverged"], standing["runs"])
        if tuned:
            counts = (standing["diverged_all"], standing["runs_all"])
            row[f"diverged, every {tuned_name}"] = format_count(*counts)
        if group.standings["missing"].any():
            row["missing"] = str(standing["missing"])
        rows.append(row)
    return pd.DataFrame(rows)


def narrow_standings_table(group: Group, spec: ComparisonSpec) -> pd.DataFrame:
    """Return the columns of `standings_table` that fit a terminal, without most intervals."""
    metric, tuned = spec.metric_info, not _untuned(group)
    pairs = group.pairs[group.pairs["a"] == _first(group)].set_index("b")
    rows = []
    for standing in group.standings.to_dict("records"):
        name = standing["strategy"]
        pair = pairs.loc[name] if name in pairs.index else None
        mean = (standing["mean"], standing["low"], standing["high"])
        difference = "" if pair is None else format_score(pair["difference"], metric, sign=True)
        row = {
            spec.by: name,
            "mean (95 %)": format_interval(*mean, metric),
            "seeds": _format_part(standing["seeds"], standing["seeds_planned"]),
            "first - this": difference,
            "p (Holm)": "" if pair is None else format_p(pair["p_holm"]),
            "diverged": format_count(standing["diverged"], standing["runs"]),
        }
        if tuned:
            row[f"best {_short_key(spec.tune)}"] = format_range(standing["best"])
        rows.append(row)
    return pd.DataFrame(rows)


def ranks_table(comparison: InitComparison) -> pd.DataFrame:
    """Return average ranks over all settings, best first; empty with fewer than two settings."""
    if comparison.overall is None:
        return pd.DataFrame()
    ranks = comparison.overall.ranks
    return pd.DataFrame(
        {
            comparison.spec.by: comparison.overall.strategies,
            f"average rank over {ranks.settings} settings": [f"{r:.2f}" for r in ranks.average],
        }
    )


def legend(comparison: InitComparison, wide: bool = True) -> str:
    """Explain the columns of the wide or of the narrow tables."""
    metric, tuned_name = comparison.spec.metric_info, _short_key(comparison.spec.tune)
    tuned = not all(map(_untuned, comparison.groups))
    selection = f", each seed at the {tuned_name} with its lowest training loss" if tuned else ""
    restriction = "" if metric.bounded else " at which no more runs diverged than at the best"
    cost = (
        f"At the edge: the best {tuned_name} is the smallest or largest tried. "
        f"Cost of {tuned_name}: the best mean minus the mean over all values tried{restriction}. "
        if tuned
        else ""
    )
    iqm = "IQM: interquartile mean of all runs. "
    probability = (
        "P(first beats this): probability that a run of the first strategy is better than one of "
        "this strategy. "
    )
    more = "" if wide else " --wide adds the other columns."
    return (
        f"Strategies are the values of {comparison.spec.by}, best first. "
        f"Mean: mean over seeds of the {metric.label}, averaged over the group's settings"
        f"{selection}. 95 % confidence intervals: Student's t with fewer than 10 seeds, else BCa "
        f"bootstrap. {iqm if wide else ''}First - this: difference to the first "
        f"strategy, paired over seeds. {probability if wide else ''}p (Holm): t-test with Holm's "
        f"correction over all pairs of all groups. {cost if wide else ''}Diverged: "
        f"{metric.diverged_note}.{more}"
    )


def _difference(pair: pd.Series, spec: ComparisonSpec) -> str:
    difference = (pair["difference"], pair["low"], pair["high"])
    return format_interval(*difference, spec.metric_info, sign=True)


def _format_part(part: int, whole: int) -> str:
    return str(part) if part == whole else f"{part} of {whole}"


def _first(group: Group) -> str:
    return str(group.standings["strategy"].iloc[0])


def _untuned(group: Group) -> bool:
    return not group.standings["tried"].map(len).any()


def _short_key(key: str) -> str:
    """Return `lr` for `optim.lr`."""
    return key.rpartition(".")[2] or "tuned value"


def format_score(value: float, metric: Metric, sign: bool = False) -> str:
    """Format with three decimals for an accuracy, else three significant digits.

    >>> from analysis.compare.spec import METRICS
    >>> format_score(0.91234, METRICS["test_accuracy"])
    '0.912'
    >>> format_score(2.30258, METRICS["test_loss"], sign=True)
    '+2.3'
    """
    if not np.isfinite(value):
        return MISSING
    plus = "+" if sign else ""
    return f"{value:{plus}.3f}" if metric.bounded else f"{value:{plus}.3g}"


def format_interval(
    value: float, low: float, high: float, metric: Metric, sign: bool = False
) -> str:
    """Format an estimate with its interval: `0.912 (0.905 to 0.919)`."""
    estimate = format_score(value, metric, sign)
    if not (np.isfinite(low) and np.isfinite(high)):
        return estimate
    return f"{estimate} ({format_score(low, metric, sign)} to {format_score(high, metric, sign)})"


def format_p(p: float) -> str:
    """Format a p-value.

    >>> format_p(0.00004), format_p(0.0312), format_p(float("nan"))
    ('<0.001', '0.031', '–')
    """
    if np.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def format_count(part: int, whole: int) -> str:
    """Format a count with its total, or `0`.

    >>> format_count(0, 60), format_count(12, 60)
    ('0', '12 of 60')
    """
    return f"{part} of {whole}" if part else "0"


def format_percent(part: float, whole: float) -> str:
    """Format a share; never round a nonzero share to 0%, nor an incomplete one to 100%.

    >>> format_percent(0, 60), format_percent(1, 600), format_percent(2, 7)
    ('0%', '<1%', '29%')
    >>> format_percent(599, 600), format_percent(60, 60)
    ('>99%', '100%')
    """
    rounded = f"{part / whole:.0%}" if whole else "0%"
    if part and rounded == "0%":
        return "<1%"
    return ">99%" if part < whole and rounded == "100%" else rounded


def plural(number: int, noun: str) -> str:
    """Format a count with its noun.

    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_range(values: Sequence[float]) -> str:
    """Format ascending distinct values as one value or a range.

    >>> format_range([0.01]), format_range([0.003, 0.01]), format_range([])
    ('0.01', '0.003 to 0.01', '–')
    """
    if not len(values) or np.isnan(values[0]):
        return MISSING
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def join_names(names: Sequence[str]) -> str:
    """Join names with commas and "and".

    >>> join_names(["a"]), join_names(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
