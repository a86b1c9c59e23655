"""Outcome counts of cells, and failures grouped by their reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from analysis.load import Results
from analysis.report.cells import Column
from experiments.config.groups import SEEDS
from experiments.sweep.status.failures import Failure
from experiments.sweep.status.format import plural
from experiments.sweep.status.results import (
    best_lines,
    best_metric,
    chance_accuracies,
    chance_lines,
    diverged_lines,
    group_by_setting,
)
from experiments.sweep.store.tables import DONE, FAILED, read_states

MAX_AXIS_VALUES = 12  # axes with more values are left out
MAX_DETAILED = 3  # failures per reason with a traceback
MAX_LISTED = 20  # further failures per reason that are listed by name
MAX_TRACEBACK_LENGTH = 20_000  # characters; longer ones lose their beginning


@dataclass(frozen=True)
class OutcomeCount:
    """Number of cells with one outcome; `css_class` selects its color on the page."""

    outcome: str
    count: int
    css_class: str


@dataclass(frozen=True)
class AxisOutcomes:
    """Outcome counts for each value of an axis."""

    name: str
    values: list[tuple[str, list[OutcomeCount]]]


def count_outcomes(outcomes: Iterable[str]) -> list[OutcomeCount]:
    """Count cells by outcome, in a fixed order of outcomes.

    >>> [(count.outcome, count.count) for count in count_outcomes(["diverged", "ok", "oom", "ok"])]
    [('ok', 2), ('diverged', 1), ('oom', 1)]
    """
    return sorted_counts(Counter(outcomes))


def sorted_counts(counts: Mapping[str, int]) -> list[OutcomeCount]:
    """Convert counts by outcome to a list in a fixed order of outcomes."""
    order = [*DONE, *FAILED]
    position = {outcome: n for n, outcome in enumerate(order)} | {"running": 98, "missing": 99}
    ordered = sorted(counts, key=lambda outcome: (position.get(outcome, len(order)), outcome))
    return [OutcomeCount(outcome, counts[outcome], css_class(outcome)) for outcome in ordered]


def outcome_sentences(results: Results, outcomes: Sequence[str]) -> list[str]:
    """Return the outcome in sentences: cells by outcome, best settings, and what diverged."""
    if not outcomes:
        return []
    counts = ", ".join(f"{item.count:,} {item.outcome}" for item in count_outcomes(outcomes))
    sentences = [f"{plural(len(outcomes), 'cell')}: {counts}."]
    plan = results.plan
    assignments = {cell: record["assignment"] for cell, record in plan.items()}
    done = {
        cell: state
        for cell, state in read_states(results.folder).items()
        if state.outcome in DONE and cell in assignments
    }
    if not done:
        return sentences
    metric = best_metric(done)
    shown = {cell: assignments[cell] for cell in done}
    settings = group_by_setting(shown, done, metric, chance_accuracies(plan))
    if metric is not None:
        title, *ranked = best_lines(settings, metric)
        best = "; ".join(_ranked_setting(line) for line in ranked)
        sentences.append(f"{title} {best}.")
    lines = [*diverged_lines(settings), *chance_lines(settings)]
    return [*sentences, *(f"{line}." for line in lines)]


def _ranked_setting(line: str) -> str:
    """Format a line of `best_lines` for a sentence.

    >>> _ranked_setting("  1. xavier_normal gelu lr=0.3    0.926 (5 seeds)")
    'xavier_normal gelu lr=0.3: 0.926 (5 seeds)'
    """
    _, _, text = line.partition(". ")
    setting, _, score = text.rpartition("  ")  # best_lines pads the settings with spaces
    return f"{setting.strip()}: {score}"


def css_class(outcome: str) -> str:
    """Return `ok`, `diverged`, `failed`, `interrupted`, `running` or `missing`."""
    if outcome in (*DONE, "running", "missing"):
        return outcome
    return "failed" if outcome in FAILED else "interrupted"


def outcomes_by_axis(columns: Sequence[Column]) -> list[AxisOutcomes]:
    """Count outcomes for each value of each axis except seeds; empty if all outcomes are equal."""
    outcomes = next(column.values for column in columns if column.role == "outcome")
    if len(set(outcomes)) < 2:
        return []
    axes = []
    for column in columns:
        if column.role != "varies" or column.key in SEEDS:
            continue
        by_value: dict[str, list[str]] = {}
        for row, outcome in enumerate(outcomes):
            by_value.setdefault(column.display(row), []).append(outcome)
        if len(by_value) <= MAX_AXIS_VALUES:
            counts = [(value, count_outcomes(group)) for value, group in by_value.items()]
            axes.append(AxisOutcomes(column.key, counts))
    return axes


@dataclass(frozen=True)
class FailureDetail:
    """A failure with its traceback, or None if there is no traceback."""

    failure: Failure
    traceback: str | None


@dataclass(frozen=True)
class FailureGroup:
    """Failures with one outcome and one reason."""

    outcome: str
    reason: str
    count: int
    details: tuple[FailureDetail, ...]
    listed: tuple[Failure, ...]

    @property
    def n_unlisted(self) -> int:
        """Number of failures that are neither detailed nor listed."""
        return self.count - len(self.details) - len(self.listed)


def group_failures(failures: Sequence[Failure]) -> list[FailureGroup]:
    """Group failures by outcome and reason, the most frequent first."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.outcome, failure.summary), []).append(failure)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        FailureGroup(
            outcome=outcome,
            reason=reason or "no reason recorded",
            count=len(group),
            details=tuple(FailureDetail(f, _traceback(f)) for f in group[:MAX_DETAILED]),
            listed=tuple(group[MAX_DETAILED : MAX_DETAILED + MAX_LISTED]),
        )
        for (outcome, reason), group in ordered
    ]


def _traceback(failure: Failure) -> str | None:
    if failure.traceback is not None:
        with suppress(OSError):  # the file was removed
            text = failure.traceback.read_text(errors="replace").strip()
            truncated = f"[...]\n{text[-MAX_TRACEBACK_LENGTH:]}"
            return text if len(text) <= MAX_TRACEBACK_LENGTH else truncated
    # The reason may have several lines, of which the summary holds only one.
    return failure.reason if failure.reason != failure.summary else None
