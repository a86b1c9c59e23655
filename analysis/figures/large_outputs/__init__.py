"""Study `large_outputs`: causes of huge outputs in a CNN, alone and with each remedy."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figures.large_outputs.cells import (
    ACTIVATION,
    CAUSES,
    HEALTHY,
    HEALTHY_FACTOR,
    LARGE_START,
    LARGE_STEPS,
    LOWER_RATE,
    NORM_CLIP,
    NOTHING,
    OTHER_SUSPECTS,
    REGRESSION,
    SAME_CLASSES,
    SCHEDULES,
    VALUE_CLIP,
    XAVIER,
    summarize,
)
from analysis.figures.large_outputs.figures import caption, figures
from analysis.scoring.effects import difference, explained_share, least, per_seed, rows_where
from analysis.scoring.scored_study import ScoredStudy
from analysis.scoring.verdict import Effect

__all__ = ["STUDY"]


def _growth(name: str, with_remedy: str = NOTHING) -> Effect:
    """Return log10 of a network's size over that of the healthy network with the same remedy."""
    healthy = SAME_CLASSES if name == REGRESSION else HEALTHY
    # The regression's healthy network has run alone and at the lower rate only.
    same = with_remedy if healthy == HEALTHY or with_remedy == LOWER_RATE else NOTHING
    return difference(
        "log_size",
        {"cause": name, "remedy": with_remedy},
        {"cause": healthy, "remedy": same},
    )


def _causes_beyond(cells: pd.DataFrame) -> float:
    """Return the smallest growth by a cause minus the largest growth by another suspect."""
    alone = rows_where(cells, {"remedy": NOTHING})
    sizes = alone.groupby("cause")["log_size"].mean()
    others = [name for name in OTHER_SUSPECTS if name in sizes]
    if not set(CAUSES) <= set(sizes.index) or not others:
        return float("nan")
    return float(sizes[list(CAUSES)].min() - sizes[others].max())


def _bounded(name: str, by: str) -> Effect:
    """Return whether the outputs are as small as healthy ones with a remedy, minus without it."""
    healthy = SAME_CLASSES if name == REGRESSION else HEALTHY

    def is_bounded(cells: pd.DataFrame, with_remedy: str) -> float:
        rows = rows_where(cells, {"cause": name, "remedy": with_remedy})
        limit = rows_where(cells, {"cause": healthy, "remedy": NOTHING})["log_size"].mean()
        small = rows["log_size"] <= limit + np.log10(HEALTHY_FACTOR)
        return float(small.mean()) if np.isfinite(limit) else float("nan")

    return per_seed(lambda cells: is_bounded(cells, by) - is_bounded(cells, NOTHING))


def _predicted_start(cells: pd.DataFrame) -> float:
    rows = cells[cells["log_start"].notna()]
    return explained_share(rows["log_start"], rows["log_start_predicted"])


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("log_size", "log_start", "accuracy"),
    effects={
        "least_growth_by_cause": least([_growth(name) for name in CAUSES]),
        "causes_beyond_other_suspects": per_seed(_causes_beyond),
        "growth_with_final_activation": least(
            [_growth(name, ACTIVATION) for name in (*LARGE_START, *LARGE_STEPS)]
        ),
        "bounded_by_norm_clipping": least([_bounded(name, NORM_CLIP) for name in LARGE_STEPS]),
        "bounded_by_value_clipping": least([_bounded(name, VALUE_CLIP) for name in LARGE_STEPS]),
        "bounded_by_lower_rate": least([_bounded(name, LOWER_RATE) for name in LARGE_STEPS]),
        "bounded_regression": least(
            [_bounded(REGRESSION, by) for by in (XAVIER, NORM_CLIP, LOWER_RATE)]
        ),
        "growth_with_step_remedies": least(
            [
                _growth(name, by)
                for name in LARGE_START
                for by in (NORM_CLIP, VALUE_CLIP, LOWER_RATE, *SCHEDULES)
            ]
        ),
        "predicted_start": per_seed(_predicted_start),
    },
    figures=figures,
    caption=caption,
)
