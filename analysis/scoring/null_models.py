"""Null models: wrong results that the scoring of a study must not call reproduced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.scoring.claims import Scoring
from analysis.scoring.verdict import SEED, Effect, score_claim
from fanin.errors import FaninError, suggest

N_SHUFFLES = 200
CONSTANT, SHUFFLED, TREND = "constant", "shuffled", "trend in "

NullModel = Callable[[pd.DataFrame], pd.DataFrame]
"""Function from the cells of a study to the same cells with wrong outcomes."""


@dataclass(frozen=True)
class NullResult:
    """Verdict of a claim on the outcomes of a null model.

    Attributes
    ----------
    claim, null_model
        Names of both.
    n, n_accepted
        Number of variants of the null model, and of those that the claim calls reproduced.
    """

    claim: str
    null_model: str
    n: int
    n_accepted: int

    @property
    def is_refused(self) -> bool:
        """True if the claim calls no variant reproduced, or as few shuffles as chance explains.

        A 95 % interval lies above the truth by chance in 2.5 % of the shuffles. The limit is the
        number that a claim with this rate exceeds with a probability of 1 %.
        """
        allowed = stats.binom.ppf(0.99, self.n, 0.025) if self.null_model == SHUFFLED else 0
        return bool(self.n_accepted <= allowed)


def score_null_models(
    scoring: Scoring,
    effects: Mapping[str, Effect],
    outcomes: Sequence[str],
    cells: pd.DataFrame,
    null_models: Mapping[str, NullModel] | None = None,
    n_shuffles: int = N_SHUFFLES,
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
    null_models
        Null models of the study, by name.
    n_shuffles
        Number of variants of the null model `shuffled`.

    Raises
    ------
    FaninError
        A null model's name, or the column of its trend, is not known.
    """
    results = []
    for name, claim in scoring.claims.items():
        for model in claim.null_models:
            verdicts = [
                score_claim(name, claim, effects, wrong, scoring.seeds).verdict
                for wrong in null_cells(model, outcomes, cells, null_models or {}, n_shuffles)
            ]
            n_accepted = verdicts.count("reproduced")
            results.append(NullResult(name, model, len(verdicts), n_accepted))
    return results


def null_cells(
    model: str,
    outcomes: Sequence[str],
    cells: pd.DataFrame,
    null_models: Mapping[str, NullModel],
    n_shuffles: int,
) -> Iterator[pd.DataFrame]:
    """Yield the cells with the outcomes of each variant of a null model."""
    if model == CONSTANT:
        yield from _constants(outcomes, cells)
    elif model == SHUFFLED:
        yield from _shuffles(outcomes, cells, n_shuffles)
    elif model.startswith(TREND):
        yield from _trends(model.removeprefix(TREND), outcomes, cells)
    elif model in null_models:
        yield null_models[model](cells)
    else:
        known = {CONSTANT, SHUFFLED, *(TREND + str(column) for column in cells), *null_models}
        raise FaninError(f"no null model {model}; {suggest(model, known)}")


def _constants(outcomes: Sequence[str], cells: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Give every cell the same outcome: the smallest, median and largest measured one."""
    for quantile in (0.0, 0.5, 1.0):
        yield _replace(outcomes, cells, np.full(len(cells), quantile))


def _shuffles(
    outcomes: Sequence[str], cells: pd.DataFrame, n_shuffles: int
) -> Iterator[pd.DataFrame]:
    """Exchange the outcomes of cells within each seed, of cells that measure the same outcomes."""
    rng = np.random.default_rng(0)
    measured = cells[list(outcomes)].notna().apply(tuple, axis=1).to_numpy()
    groups = list(
        cells.reset_index(drop=True).groupby([cells[SEED].to_numpy(), measured]).indices.values()
    )
    for _ in range(n_shuffles):
        order = np.arange(len(cells))
        for rows in groups:
            order[rows] = rng.permutation(rows)
        yield cells.assign(**{column: cells[column].to_numpy()[order] for column in outcomes})


def _trends(column: str, outcomes: Sequence[str], cells: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Make the outcome rise, or fall, with one column of the design and with nothing else."""
    if column not in cells:
        design = set(map(str, cells.columns)) - set(outcomes)
        raise FaninError(f"null model: no column {column}; {suggest(column, design)}")
    for sign in (1, -1):
        yield _replace(outcomes, cells, (sign * cells[column]).rank(pct=True).to_numpy())


def _replace(outcomes: Sequence[str], cells: pd.DataFrame, positions: np.ndarray) -> pd.DataFrame:
    """Replace measured outcomes by the quantiles of all measured ones at these positions."""
    replaced = {}
    for name in outcomes:
        values = cells[name].to_numpy(float, copy=True)
        ordered = np.sort(values[~np.isnan(values)])
        index = np.clip(np.ceil(positions * len(ordered)).astype(int) - 1, 0, len(ordered) - 1)
        replaced[name] = np.where(np.isnan(values), np.nan, ordered[index])
    return cells.assign(**replaced)
