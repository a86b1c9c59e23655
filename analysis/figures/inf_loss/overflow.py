"""The first layer and the first loss that overflow: predicted before any draw, and measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite, log
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.special import erfc

from analysis.figures.inf_loss.parts import part_cells, share
from analysis.figures.query import select
from analysis.figures.study import ClaimResult
from analysis.figures.style import PALETTE
from analysis.load import Results
from analysis.predictions import predict_cell
from experiments.inputs import prepared, probe_images
from experiments.schema import build_cell
from experiments.sweep.store.plan_file import read_plan
from fanin.inits.weight_shape import WeightShape
from fanin.theory.certificate.assemble import finest_predictions, variance_share
from fanin.theory.moments import declared_moments
from fanin.theory.network import parse_network
from fanin.theory.overflow import first_overflow, overflow_probabilities, overflow_probability

INPUT = 0  # where a layer's number would stand, the input itself
SIZE = (6.8, 3.6)  # inches
NO_LAYER = 80.0  # where "no layer" stands on the figure's axes
TICKS = (1, 2, 3, 5, 10, 20, 40)
STYLES = {  # of a dtype: marker, size
    "float16": ("o", 26),
    "bfloat16": ("^", 30),
    "float32": ("s", 22),
}
CLASSES = 10
# float32 has exp(-z) = 0 from here (half of its smallest number), and inf 128 log 2 on the other
# side, where 1 / (1 + exp(-z)) is 0; that is 1 where exp(-z) is lost beside 1.
EXP_IS_0 = 150 * np.log(2.0)
SIGMOID_IS_0 = 128 * np.log(2.0)
SIGMOID_IS_1 = 24 * np.log(2.0)
SAMPLES = 20_000


@dataclass(frozen=True)
class OverflowPrediction:
    """Prediction for one network in one dtype.

    Attributes
    ----------
    layer
        The first layer that overflows likelier than not, from 1; 0: the input; None: none does.
    he_layer
        The same by He's product formula.
    is_finite
        Whether the first loss is a finite number.
    log_m2
        log E[y^2] of every layer.
    """

    layer: int | None
    he_layer: int | None
    is_finite: bool
    log_m2: tuple[float, ...]


@dataclass(frozen=True)
class _LayerMoments:
    largest_input: float
    log_m2: tuple[float, ...]
    log_m2_by_he: tuple[float, ...]
    between: tuple[float, ...]  # the share of that which is no mean common to the units
    counts: tuple[int, ...]
    propagates_inf: bool  # whether the activation of an infinity is one


class OverflowPredictor:
    """Foretells cells; what differs only in training or dtype is walked once."""

    def __init__(self) -> None:
        self._levels: dict[str, _LayerMoments] = {}

    def predict(self, config: Mapping[str, Any]) -> OverflowPrediction:
        """Say of a cell's config which layer overflows first.

        The spread of single draws is left out: it moves the layer by a fraction of one.
        """
        levels = self._of(config)
        dtype = getattr(torch, config["train"]["dtype"])
        if levels.largest_input > torch.finfo(dtype).max:
            return OverflowPrediction(INPUT, INPUT, False, levels.log_m2)
        chances = overflow_probabilities(
            levels.log_m2, levels.counts, dtype, variance_share=levels.between
        )
        he = overflow_probabilities(levels.log_m2_by_he, levels.counts, dtype)
        layer = first_overflow(chances)
        # What saturates swallows a hidden layer's infinities.
        matters = chances if levels.propagates_inf else chances[-1:]
        is_finite = first_overflow(matters) is None
        return OverflowPrediction(layer, first_overflow(he), is_finite, levels.log_m2)

    def _of(self, config: Mapping[str, Any]) -> _LayerMoments:
        wide = {**config, "train": {**config["train"], "dtype": "float32"}}
        decides = ("data", "scaling", "model", "activation", "init", "probe")
        key = json.dumps({group: wide[group] for group in decides}, sort_keys=True)
        if key not in self._levels:
            self._levels[key] = _levels(wide)
        return self._levels[key]


def _levels(config: Mapping[str, Any]) -> _LayerMoments:
    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    images = probe_images(cell, data, scaling)
    model = cell.network()
    centred = not any(
        bool(torch.as_tensor(known.weight.mean).any())
        for known in declared_moments(model, cell.init).values()
    )
    stages = parse_network(model, tuple(images.shape[1:])).stages
    maps = any(stage.positions > 1 for stage in stages)
    # Padding is the field's; with weights of non-zero mean the field of a deep net takes minutes.
    theories = ("he", "field") if maps and centred else ("he", "mean_field")
    frame = predict_cell(config, theories)
    modules = dict(model.named_modules())
    named = finest_predictions(frame)
    he = finest_predictions(frame[frame["theory"] == "he"])
    infinities = cell.activation()(torch.tensor([-inf, inf]))
    return _LayerMoments(
        float(images.abs().max()),
        tuple(_log(named[stage.name]["preact_m2"].value) for stage in stages),
        tuple(_log(he[stage.name]["preact_m2"].value) for stage in stages),
        tuple(variance_share(named[stage.name], stage.positions) for stage in stages),
        tuple(
            WeightShape.of(modules[stage.name]).out_features * stage.positions * len(images)
            for stage in stages
        ),
        not bool(infinities.isfinite().all()),
    )


def _log(value: float) -> float:
    return -inf if value == 0 else log(value) if isfinite(value) else value


def first_bad_layers(layers: pd.DataFrame) -> pd.Series:
    """By cell and draw, the first layer whose measured second moment overflowed; NaN: none did.

    Parameters
    ----------
    layers
        The `layers` table.
    """
    mine = select(layers[layers["layer"] > 0], quantity="preact_m2", image=-1, step=0)
    bad = mine["layer"].where(~np.isfinite(mine["value"]))
    keys = [mine["cell_id"].astype(str), mine["draw"]]
    return bad.groupby(keys).min().rename("measured")


def predict_overflow(results: Results) -> pd.DataFrame:
    """The part `settings` of the sweep with theory's word.

    Returns
    -------
    pandas.DataFrame
        Its cells, and `layer`, `he_layer` (first overflowing layer: 0 the input, NaN none),
        `finite` (is the first loss, by theory).
    """
    cells = part_cells(results, "settings")
    predictor, frozen = OverflowPredictor(), read_plan(results.folder)
    said: list[OverflowPrediction] = [
        predictor.predict(frozen[str(cell)]["config"]) for cell in cells["cell_id"]
    ]
    return cells.assign(
        layer=np.array([each.layer for each in said], float),  # None becomes NaN
        he_layer=np.array([each.he_layer for each in said], float),
        finite=[each.is_finite for each in said],
    )


def overflow_by_draw(results: Results, cells: pd.DataFrame) -> pd.DataFrame:
    """A row per network drawn: `model`, `dtype`, `layer`, `he_layer` and `measured` (NaN: none).

    Cells whose input overflows are left out: there is no layer to foretell.
    """
    measured = first_bad_layers(results.layers).reset_index()
    about = cells[cells["layer"] != 0].assign(
        cell_id=lambda frame: frame["cell_id"].astype(str),
        model=lambda frame: frame["model"].astype(str),
        dtype=lambda frame: frame["train.dtype"].astype(str),
    )
    return measured.merge(about[["cell_id", "model", "dtype", "layer", "he_layer"]], on="cell_id")


def overflow_claims(
    cells: pd.DataFrame, networks: pd.DataFrame, criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    """Compare the first layer to overflow, and the first loss, with their predictions."""
    within = int(criterion["layers"])
    for dtype, mine in networks.groupby("dtype", sort=False):
        some = mine[mine["layer"].notna() | mine["measured"].notna()]
        off = (some["measured"] - some["layer"]).abs().fillna(np.inf)
        yield ClaimResult(
            f"{dtype}: first overflowing layer at step 0, {len(some)} networks in which one does",
            f"theory's, at most {within} off",
            f"the very layer in {share(int((off == 0).sum()), len(some))}, at most {within} off in "
            f"{share(int((off <= within).sum()), len(some))}",
            bool((off <= within).all()) if len(some) else None,
        )
    right = networks["he_layer"].fillna(NO_LAYER) == networks["measured"].fillna(NO_LAYER)
    ours = networks["layer"].fillna(NO_LAYER) == networks["measured"].fillna(NO_LAYER)
    yield ClaimResult(
        "the same by He's product formula, all dtypes and networks, those without overflow too",
        "the very layer more seldom (it leaves out weight means and saturation)",
        f"{share(int(right.sum()), len(right))}, theory here {share(int(ours.sum()), len(ours))}",
        bool(right.sum() < ours.sum()),
    )
    bad, told = cells["at_start"], ~cells["finite"]
    yield ClaimResult(
        f"is the loss finite at step 0? {len(cells)} networks",
        f"theory is right in {float(criterion['predicted_share']):.0%}",
        f"right in {share(int((bad == told).sum()), len(cells))} ({int(bad.sum())} are not finite: "
        f"{int((bad & told).sum())} predicted_share; false alarms: {int((told & ~bad).sum())})",
        bool((bad == told).mean() >= float(criterion["predicted_share"])),
    )


def overflow_figure(networks: pd.DataFrame) -> Figure:
    """Measured against predicted_share layer, by this theory and by He's formula."""
    drawn = Figure(figsize=SIZE, layout="constrained")
    axes = drawn.subplots(1, 2, sharex=True, sharey=True)
    panels = {"layer": "this theory", "he_layer": "He's product formula"}
    for axis, (column, words) in zip(axes, panels.items(), strict=True):
        _panel(axis, networks, column)
        axis.set_title(words, fontsize="medium")
        axis.set_xlabel("first layer to overflow, predicted")
        sns.despine(ax=axis)
    axes[0].set_ylabel("first layer to overflow, measured")
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=7)
    return drawn


def _panel(axis: Axes, networks: pd.DataFrame, column: str) -> None:
    ends = np.array([1.0, 60.0])
    axis.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
    axis.axhline(60.0, color="0.85", linewidth=0.8, zorder=0)
    axis.axvline(60.0, color="0.85", linewidth=0.8, zorder=0)
    told = networks.assign(
        x=networks[column].fillna(NO_LAYER), y=networks["measured"].fillna(NO_LAYER)
    )
    for number, (dtype, (marker, size)) in enumerate(STYLES.items()):
        mine = told[told["dtype"] == dtype]
        # Side by side, for dtypes of one range lie on each other.
        shift = 1 + 0.05 * (number - 1)
        for is_map, fill in ((False, "none"), (True, PALETTE[number])):
            here = mine[(mine["model"] != "mlp") == is_map]
            axis.scatter(
                here["x"] * shift, here["y"] * shift, s=size, marker=marker, linewidth=0.8,
                edgecolor=PALETTE[number], facecolor=fill, alpha=0.8,
                label=f"{dtype}, {'CNN' if is_map else 'MLP'}" if len(here) else None,
            )  # fmt: skip
    for which in ("x", "y"):
        axis.set(**{f"{which}scale": "log", f"{which}lim": (0.8, 110)})
        ticks = getattr(axis, f"{which}axis")
        ticks.set_ticks([*TICKS, NO_LAYER], [*map(str, TICKS), "none"])
        ticks.set_minor_locator(NullLocator())


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
        return overflow_probability(2 * float(np.log(sd)), count, torch.float32, squared=squared)

    return chance


CHANCES: Mapping[tuple[str, str], Callable[[float, int], float]] = {
    ("bce", "naive"): sigmoid_rounds,
    ("cross_entropy", "naive"): softmax_underflows,
    ("mse", "stable"): overflows(squared=True),
    ("bce", "stable"): overflows(squared=False),
    ("cross_entropy", "stable"): overflows(squared=False),
}


def loss_onsets(results: Results) -> pd.DataFrame:
    """A row per loss: `loss`, `form`, `told`, `below`, `at` (all depths).

    `told` is theory's, NaN where no depth up to the deepest is likelier bad than not; measured are
    the last depth tried that is finite and the first that isn't.
    """
    cells, frozen = part_cells(results, "losses"), read_plan(results.folder)
    deepest = cells.loc[cells["model.depth"].idxmax(), "cell_id"]
    # Logits of a net of depth d have the second moment of this one's layer d.
    log_m2 = OverflowPredictor().predict(frozen[str(deepest)]["config"]).log_m2
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


def loss_claims(found: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Theory's depth beside the depths between which the loss first fails."""
    within = int(criterion["layers"])
    for row in found.to_dict("records"):
        told = np.inf if np.isnan(row["told"]) else row["told"]
        between = row["below"] - within < told <= row["at"] + within
        shown = "no depth tried" if np.isinf(row["at"]) else f"depth {row['at']:.0f}"
        yield ClaimResult(
            f"{row['loss']}, {row['form']}: first depth that is inf or NaN at step 0, N(0, 1)",
            "none" if np.isinf(told) else f"depth {told:.0f} (theory)",
            f"{shown}; still finite at {row['below']:.0f}" if row["below"] else shown,
            bool(between),
        )
