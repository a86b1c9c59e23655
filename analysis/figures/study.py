"""Studies: a published figure redrawn from a sweep, and published numbers beside measured ones.

A sweep with a `source` key in its YAML needs a module of the same name in this package, with

    study(results: Results, criterion: Mapping[str, Any]) -> Study

`criterion` is the sweep's `criterion` key, by which the study decides which claims hold. `results`
has only cells with a finished run. `study_factory` makes claims undecided whose cells are missing,
and gives no verdict on a sweep that is not the registered one.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import yaml
from matplotlib.figure import Figure

from analysis.figures import registered
from analysis.load import Results
from analysis.planned_cells import PlannedCells, finished_results, planned_cells
from experiments.sweep.provenance import typed_command
from fanin.errors import FaninError

LAST_KEY = "diff"  # of a launch record; a truncated one lacks it
FIELD_REPORT = "field report"  # `source` of a sweep that answers a question, not a paper
NO_THRESHOLD = "none"
Conclusion = Literal["reproduced", "partly reproduced", "not reproduced", "undecided", "no verdict"]


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
    """

    description: str
    claimed: str
    measured: str
    holds: bool | None
    undecided: bool = False
    cells: Mapping[str, Any] = field(default_factory=dict)
    threshold: str = NO_THRESHOLD

    @property
    def verdict(self) -> str:
        """`yes`, `no`, `undecided`, or nothing if there is no criterion."""
        if self.undecided:
            return "undecided"
        return {True: "yes", False: "no", None: ""}[self.holds]


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
        """Summary of all claims that have a criterion."""
        if self.differs:
            return "no verdict"
        tested = [result.holds for result in self.claim_results if result.holds is not None]
        undecided = any(result.undecided for result in self.claim_results)
        if all(tested) and not undecided:
            return "reproduced"
        if any(tested):
            return "partly reproduced"
        return "undecided" if undecided else "not reproduced"


def study_factory(results: Results) -> Callable[[], Study] | None:
    """Return a function that computes a sweep's study, or None if the sweep has no `source`.

    Raises
    ------
    FaninError
        The sweep has a `source`, but this package has no module of the sweep's name.
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
    study = importlib.import_module(module).study
    return lambda: _complete_study(study, results, record)


def _complete_study(
    study: Callable[[Results, Mapping[str, Any]], Study],
    results: Results,
    record: Mapping[str, Any],
) -> Study:
    """Compute a study from finished cells; claims whose cells are missing become undecided."""
    plan = read_planned_cells(results)
    criterion = record.get("criterion") or {}
    try:
        computed = study(finished_results(results), criterion)
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
    """Read the record of a sweep's first launch, with `source` and `criterion` at that time.

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
