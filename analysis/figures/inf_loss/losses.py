"""From which depth each formula of the loss is inf or NaN at step 0, with logits that grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import erfc

from analysis.figures.inf_loss.overflow import Oracle
from analysis.figures.inf_loss.parts import cells_of
from analysis.figures.study import Headline
from analysis.load import Results
from experiments.sweep.store.plan_file import read_frozen
from fanin.theory.overflow import overflow_chance

CLASSES = 10
# float32 has exp(-z) = 0 from here (half of its smallest number), and inf 128 log 2 on the other
# side, where 1 / (1 + exp(-z)) is 0; that is 1 where exp(-z) is lost beside 1.
EXP_IS_0 = 150 * np.log(2.0)
SIGMOID_IS_0 = 128 * np.log(2.0)
SIGMOID_IS_1 = 24 * np.log(2.0)
SAMPLES = 20_000


def softmax_underflows(sd: float, images: int) -> float:
    """Chance that on some image the label's softmax is 0 in float32.

    Parameters
    ----------
    sd
        Of the logits, which count as independent Gaussians.
    images
        In the batch; they count as independent.
    """
    z = np.random.default_rng(0).standard_normal((SAMPLES, CLASSES)) * sd
    one = float((z.max(1) - z[:, 0] > EXP_IS_0).mean())
    return 1 - (1 - one) ** images


def sigmoid_rounds(sd: float, images: int) -> float:
    """Chance that some sigmoid of the batch is exactly 0 or 1 in float32."""
    one = sum(0.5 * erfc(limit / sd / 2**0.5) for limit in (SIGMOID_IS_0, SIGMOID_IS_1))
    return float(1 - (1 - one) ** (images * CLASSES))


def overflows(squared: bool) -> Callable[[float, int], float]:
    """Chance that some logit, or its square, is too large for float32."""

    def chance(sd: float, images: int) -> float:
        count = images * CLASSES
        return overflow_chance(2 * float(np.log(sd)), count, torch.float32, squared=squared)

    return chance


CHANCES: Mapping[tuple[str, str], Callable[[float, int], float]] = {
    ("bce", "naive"): sigmoid_rounds,
    ("cross_entropy", "naive"): softmax_underflows,
    ("mse", "stable"): overflows(squared=True),
    ("bce", "stable"): overflows(squared=False),
    ("cross_entropy", "stable"): overflows(squared=False),
}


def onsets(results: Results) -> pd.DataFrame:
    """A row per loss: `loss`, `form`, `told`, `below`, `at` (all depths).

    `told` is theory's, NaN where no depth up to the deepest is likelier bad than not; measured are
    the last depth tried that is finite and the first that isn't.
    """
    cells, frozen = cells_of(results, "losses"), read_frozen(results.folder)
    deepest = cells.loc[cells["model.depth"].idxmax(), "cell_id"]
    # Logits of a net of depth d have the second moment of this one's layer d.
    log_m2 = Oracle().foretell(frozen[str(deepest)]["config"]).log_m2
    least = int(cells["model.depth"].min())
    sds = {n: float(np.exp(level / 2)) for n, level in enumerate(log_m2, start=1) if n >= least}
    rows = []
    for (loss, form), chance in CHANCES.items():
        of_loss = (cells["loss"].astype(str) == loss) & (cells["loss.form"].astype(str) == form)
        mine = cells[of_loss].sort_values("model.depth")
        if mine.empty:
            continue
        images = int(mine["train.batch_size"].iloc[0])
        told = next((d for d, sd in sds.items() if chance(sd, images) > 0.5), np.nan)
        bad = mine.loc[mine["at_start"], "model.depth"]
        first = float(bad.min()) if len(bad) else np.inf
        good = mine.loc[mine["model.depth"] < first, "model.depth"]
        below = float(good.max()) if len(good) else 0.0
        rows.append({"loss": loss, "form": form, "told": told, "below": below, "at": first})
    return pd.DataFrame(rows)


def headlines(found: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """Theory's depth beside the depths between which the loss first fails."""
    within = int(criterion["layers"])
    for row in found.to_dict("records"):
        told = np.inf if np.isnan(row["told"]) else row["told"]
        between = row["below"] - within < told <= row["at"] + within
        shown = "no depth tried" if np.isinf(row["at"]) else f"depth {row['at']:.0f}"
        yield Headline(
            f"{row['loss']}, {row['form']}: first depth that is inf or NaN at step 0, N(0, 1)",
            "none" if np.isinf(told) else f"depth {told:.0f} (theory)",
            f"{shown}; still finite at {row['below']:.0f}" if row["below"] else shown,
            bool(between),
        )
