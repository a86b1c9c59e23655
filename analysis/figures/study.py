"""Studies: figures drawn from a sweep, and claims beside measurements.

A sweep with a `source` in its YAML needs the section `scoring`, and a module of the same name in
this package that defines `STUDY`, an `analysis.scoring.scored_study.ScoredStudy`. `study_factory`
makes claims undecided whose cells are missing, and gives no verdict on a sweep that is not the
registered one.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import yaml
from matplotlib.figure import Figure

from analysis.figures import registered
from analysis.load import Results
from analysis.planned_cells import PlannedCells, finished_results, planned_cells
from analysis.scoring.claims import parse_scoring
from analysis.scoring.scored_study import scored_study
from analysis.scoring.verdict import ScoredClaim
from experiments.sweep.provenance import typed_command
from fanin.errors import FaninError
from fanin.statistics.interval import Interval

LAST_KEY = "diff"  # of a launch record; a truncated one lacks it
Conclusion = Literal["reproduced", "contradicted", "undecided", "no verdict"]


@dataclass(frozen=True)
class ClaimResult:
    """One claimed number and the measured one.

    Attributes
    ----------
    description
        The quantity, with its symbol and setting.
    claimed
        Published value, or the value of the publication's own formula, with its source.
    measured
        Measured value with its error.
    holds
        True if the measured value meets the criterion. None if there is no criterion for it or if
        the data cannot decide.
    undecided
        True if there is a criterion but the data cannot decide. An undecided claim does not count
        as reproduced.
    cells
        Values of config columns that select the cells of this claim; empty: all cells of the sweep.
    threshold
        Condition on the measured value, with the numbers of the criterion. `none`: not tested.
    is_main
        True for the main claim, which decides the conclusion.
    """

    description: str
    claimed: str
    measured: str
    holds: bool | None
    undecided: bool = False
    cells: Mapping[str, Any] = field(default_factory=dict)
    threshold: str = "none"
    is_main: bool = False

    @property
    def verdict(self) -> str:
        """`reproduced`, `contradicted`, `undecided`, or nothing if there is no criterion."""
        if self.undecided:
            return "undecided"
        return {True: "reproduced", False: "contradicted", None: ""}[self.holds]


@dataclass(frozen=True)
class Study:
    """Result of a sweep's study: figures, caption and tested claims.

    Attributes
    ----------
    claim
        The publication's claim, in one sentence.
    figures
        Figures by file name, without suffix.
    caption
        Figure caption: setting, symbols and number of draws or seeds.
    claim_results
        Claimed and measured numbers, in the order of the table.
    warning
        Cells that are missing and the command that runs them; empty if the sweep is complete.
    differs
        Keys whose values are not those of the registered sweep. If there are any, no claim has a
        verdict.
    """

    claim: str
    figures: Mapping[str, Figure]
    caption: str
    claim_results: tuple[ClaimResult, ...]
    warning: str = ""
    differs: tuple[str, ...] = ()

    @property
    def statement(self) -> str:
        """Conclusion as the beginning of a sentence; for other settings, how they differ."""
        if self.differs:
            keys = ", ".join(self.differs)
            return f"No verdict, because the run differs from the registered sweep in: {keys}"
        return self.conclusion.capitalize()

    @property
    def conclusion(self) -> Conclusion:
        """Verdict of the main claim."""
        if self.differs:
            return "no verdict"
        main = next(result for result in self.claim_results if result.is_main)
        return cast(Conclusion, main.verdict)


def study_factory(results: Results) -> Callable[[], Study] | None:
    """Return a function that computes a sweep's study, or None if the sweep has no `source`.

    Raises
    ------
    FaninError
        The sweep has a `source`, but no section `scoring` or no module of the sweep's name.
    """
    record = launch_record(results)
    if not record.get("source"):
        return None
    module = f"analysis.figures.{record['sweep']}"
    if importlib.util.find_spec(module) is None:
        path = module.replace(".", "/")
        raise FaninError(
            f"{record['sweep']}: no module {module}. A sweep with a 'source' needs one to draw its "
            f"figure; write {path}.py or remove 'source' from the sweep's YAML"
        )
    if not record.get("scoring"):
        raise FaninError(
            f"{record['sweep']}: a sweep with a 'source' needs the section 'scoring' in its YAML "
            "(docs/sweeps.md)"
        )
    return lambda: _complete_study(results, record)


def _scored(results: Results, record: Mapping[str, Any]) -> Study:
    """Summarize, score and draw a sweep."""
    study = scored_study(record["sweep"])
    scoring = parse_scoring(record["scoring"], record["sweep"])
    tables = study.summarize(results)
    claims = tuple(claim_result(scored) for scored in study.score(scoring, tables))
    statement = scoring.claims[scoring.main].statement
    return Study(statement, study.figures(tables), study.caption(tables), claims)


def claim_result(scored: ScoredClaim) -> ClaimResult:
    """Return a scored claim as a line of a study."""
    claim = scored.claim
    return ClaimResult(
        claim.statement,
        claim.source,
        f"{format_interval(scored.interval)}, {scored.n_seeds} seeds",
        {"reproduced": True, "contradicted": False, "undecided": None}[scored.verdict],
        scored.verdict == "undecided",
        threshold=claim.criterion,
        is_main=claim.main,
    )


def format_interval(interval: Interval) -> str:
    """Format an effect with its interval.

    >>> format_interval(Interval(0.5, 0.25, 0.75))
    '0.5 (0.25 to 0.75)'
    """
    if np.isnan(interval.value):
        return "not defined in every seed"
    if np.isnan(interval.low):
        return f"{interval.value:.3g} (no interval: too few seeds)"
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def _complete_study(results: Results, record: Mapping[str, Any]) -> Study:
    """Compute a study from finished cells; claims whose cells are missing become undecided."""
    plan = read_planned_cells(results)
    try:
        computed = _scored(finished_results(results), record)
    except (FaninError, LookupError, ValueError) as error:
        if not plan.warning:
            raise
        raise FaninError(
            f"{results.name}: too few cells are finished for this study. {plan.warning}"
        ) from error
    claims = tuple(_undecided_if_missing(claim, plan) for claim in computed.claim_results)
    differs = registered.differences(results, record)
    if differs:
        claims = tuple(replace(claim, holds=None, undecided=False) for claim in claims)
    return replace(computed, claim_results=claims, warning=plan.warning, differs=differs)


def _undecided_if_missing(claim: ClaimResult, plan: PlannedCells) -> ClaimResult:
    missing = plan.describe_missing(claim.cells)
    if not missing:
        return claim
    is_tested = claim.holds is not None or claim.undecided
    measured = f"{claim.measured}; {missing}"
    return replace(claim, measured=measured, holds=None, undecided=is_tested)


def read_planned_cells(results: Results) -> PlannedCells:
    """Read a sweep's plan: all cells, those without a finished run, and the commands to run."""
    records = _launch_records(results)
    recorded = [(record.get("machine") or {}).get("command", "") for record in records]
    return planned_cells(results, [typed_command(text) for text in recorded if text])


def launch_record(results: Results) -> dict[str, Any]:
    """Read the record of a sweep's first launch, with its `source` and criteria at that time.

    A record that is damaged, for example because the file was truncated, is skipped.
    """
    return (_launch_records(results) or [{}])[0]


def _launch_records(results: Results) -> list[dict[str, Any]]:
    """Read the undamaged launch records, or damaged ones if there are no others."""
    path = results.folder.provenance
    try:
        texts = re.split(r"^---$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    except OSError as error:
        raise FaninError(f"{path}: {error}") from None
    records, problem = [], None
    for text in filter(str.strip, texts):
        try:
            records.append(dict(yaml.safe_load(text)))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            problem = error
    if not records and problem is not None:
        raise FaninError(f"{path}: no readable record of a launch: {problem}")
    complete = [record for record in records if LAST_KEY in record]
    return complete or records
