"""Null models: wrong results that the scoring of a study must not call reproduced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.scoring.claims import Claim, Scoring
from analysis.scoring.verdict import SEED, Effect, Verdict, score_claim
from fanin.errors import FaninError, suggest

N_SHUFFLES = 10


@dataclass(frozen=True)
class NullResult:
    """Verdict of a claim on the outcomes of a null model."""

    claim: str
    null_model: str
    verdict: Verdict

    @property
    def is_refused(self) -> bool:
        """True unless the claim calls the null model reproduced."""
        return self.verdict != "reproduced"


def score_null_models(
    scoring: Scoring,
    effects: Mapping[str, Effect],
    outcomes: Sequence[str],
    cells: pd.DataFrame,
) -> list[NullResult]:
    """Score every claim of a study on each of its null models.

    Parameters
    ----------
    scoring
        The claims, with the null models of each.
    effects
        Effects of the study's module.
    outcomes
        Columns of `cells` that the null models replace.
    cells
        Design and outcome of each cell.
    """
    return [
        NullResult(name, label, score_claim(name, claim, effects, wrong, scoring.seeds).verdict)
        for name, claim in scoring.claims.items()
        for label, wrong in null_cells(claim, outcomes, cells)
    ]


def null_cells(
    claim: Claim, outcomes: Sequence[str], cells: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the cells with the outcomes of each null model of a claim, and the model's name."""
    for model in claim.null_models:
        if model == "constant":
            yield from _constants(outcomes, cells)
        elif model == "shuffled":
            yield from _shuffles(outcomes, cells)
        else:
            yield from _trends(model.removeprefix("trend in "), outcomes, cells)


def _constants(outcomes: Sequence[str], cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give every cell the same outcome: the smallest, median and largest measured one."""
    for name, quantile in (("smallest", 0.0), ("median", 0.5), ("largest", 1.0)):
        values = {column: _quantiles(cells[column], np.array([quantile]))[0] for column in outcomes}
        yield f"constant ({name})", cells.assign(**values)


def _shuffles(outcomes: Sequence[str], cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Exchange the outcomes of cells within each seed."""
    rng = np.random.default_rng(0)
    positions = list(cells.reset_index(drop=True).groupby(SEED).indices.values())
    for n in range(N_SHUFFLES):
        order = np.arange(len(cells))
        for rows in positions:
            order[rows] = rng.permutation(rows)
        yield (
            f"shuffled ({n + 1})",
            cells.assign(**{column: cells[column].to_numpy()[order] for column in outcomes}),
        )


def _trends(
    column: str, outcomes: Sequence[str], cells: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Make the outcome rise, or fall, with one column of the design and with nothing else."""
    if column not in cells:
        design = set(map(str, cells.columns)) - set(outcomes)
        raise FaninError(f"null model: no column {column}; {suggest(column, design)}")
    rank = cells[column].rank(pct=True).to_numpy()
    for name, position in (("rising", rank), ("falling", 1 - rank + rank.min())):
        yield (
            f"{name} trend in {column}",
            cells.assign(**{outcome: _quantiles(cells[outcome], position) for outcome in outcomes}),
        )


def _quantiles(values: pd.Series, positions: np.ndarray) -> np.ndarray:
    """Return quantiles that are measured values; non-finite values sort last."""
    ordered = np.sort(values.to_numpy(float))
    index = np.clip(np.ceil(positions * len(ordered)).astype(int) - 1, 0, len(ordered) - 1)
    return ordered[index]
