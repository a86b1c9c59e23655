"""From which depth each formula of the loss is inf or NaN at step 0, with logits that grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import erfc

from analysis.figures.inf_loss.foretold import Oracle
from analysis.figures.inf_loss.parts import cells_of
from analysis.figures.study import Headline
from analysis.load import Results
from analysis.theory.overflow import overflow_chance
from experiments.sweep.store.frozen import read_frozen

CLASSES = 10
# exp(z) is 0 below, the half of float32's smallest number; 1 / (1 + exp(-z)) is 0 where exp(-z) is
# inf, and 1 where exp(-z) is less than half the distance of 1 to the number below it.
EXP_IS_0 = 150 * np.log(2.0)
SIGMOID_IS_0 = 128 * np.log(2.0)
SIGMOID_IS_1 = 25 * np.log(2.0)
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
    """A row per loss: `loss`, `form`, `told` (depth), and measured `below`, `at` (last good, first bad).

    `told` is NaN where no depth up to the deepest is likelier bad than not.
    """
    cells, frozen = cells_of(results, "losses"), read_frozen(results.folder)
    oracle, rows = Oracle(), []
    depths = range(2, int(cells["model.depth"].max()) + 1)
    config = frozen[str(cells["cell_id"].iloc[0])]["config"]
    sds = {}
    for depth in depths:
        deep = {**config, "model": {**config["model"], "depth": depth}}
        sds[depth] = oracle.foretell(deep).logit_m2 ** 0.5
    for (loss, form), chance in CHANCES.items():
        of_loss = (cells["loss"].astype(str) == loss) & (cells["loss.form"].astype(str) == form)
        mine = cells[of_loss].sort_values("model.depth")
        if mine.empty:
            continue
        images = int(mine["train.batch_size"].iloc[0])
        told = next((d for d in depths if chance(sds[d], images) > 0.5), np.nan)
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
            f"{row['loss']}, {row['form']}: first depth with inf or NaN at step 0, N(0, 1), float32",
            "none" if np.isinf(told) else f"depth {told:.0f} (theory)",
            f"{shown}; still finite at {row['below']:.0f}" if row["below"] else shown,
            bool(between),
        )
