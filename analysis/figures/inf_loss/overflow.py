"""First layer and first loss that overflow: predicted from the init, and measured."""

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
from fanin.inits.weight_shape import WeightShape
from fanin.theory.certificate.assemble import finest_predictions, variance_share
from fanin.theory.moments import declared_moments
from fanin.theory.network import parse_network
from fanin.theory.overflow import first_overflow, overflow_probabilities, overflow_probability

INPUT = 0  # layer number of the input
SIZE = (6.8, 3.6)  # inches
NO_LAYER = 80.0  # position of "none" on the figure's axes
TICKS = (1, 2, 3, 5, 10, 20, 40)
STYLES = {  # marker and size
    "float16": ("o", 26),
    "bfloat16": ("^", 30),
    "float32": ("s", 22),
}
CLASSES = 10
# In float32, exp(-z) rounds to 0 for z above 150 log 2 (half of the smallest subnormal number). It
# overflows for z below -128 log 2, so the sigmoid 1 / (1 + exp(-z)) is 0. The sigmoid rounds to 1
# for z above 24 log 2.
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
        First layer (counted from 1) that overflows with a probability above 1/2. 0: the input.
        None: no layer.
    he_layer
        The same by He's product formula.
    is_finite
        True if the first loss is predicted to be finite.
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
    variance_shares: tuple[float, ...]  # share of E[y^2] that varies between the units
    counts: tuple[int, ...]  # number of pre-activations by layer
    propagates_inf: bool  # True if the activation of inf or -inf is infinite


class OverflowPredictor:
    """Predictor of overflow; cells that differ only in training or dtype share one computation."""

    def __init__(self) -> None:
        self._moments: dict[str, _LayerMoments] = {}

    def predict(self, config: Mapping[str, Any]) -> OverflowPrediction:
        """Predict which layer of a cell overflows first.

        The spread of single draws is ignored; it shifts the layer by less than one.
        """
        moments = self._layer_moments(config)
        dtype = getattr(torch, config["train"]["dtype"])
        if moments.largest_input > torch.finfo(dtype).max:
            return OverflowPrediction(INPUT, INPUT, False, moments.log_m2)
        probabilities = overflow_probabilities(
            moments.log_m2, moments.counts, dtype, variance_share=moments.variance_shares
        )
        by_he = overflow_probabilities(moments.log_m2_by_he, moments.counts, dtype)
        layer = first_overflow(probabilities)
        # A saturating activation maps infinities of hidden layers to finite values.
        relevant = probabilities if moments.propagates_inf else probabilities[-1:]
        is_finite = first_overflow(relevant) is None
        return OverflowPrediction(layer, first_overflow(by_he), is_finite, moments.log_m2)

    def _layer_moments(self, config: Mapping[str, Any]) -> _LayerMoments:
        float32_config = {**config, "train": {**config["train"], "dtype": "float32"}}
        groups = ("data", "scaling", "model", "activation", "init", "probe")
        key = json.dumps({group: float32_config[group] for group in groups}, sort_keys=True)
        if key not in self._moments:
            self._moments[key] = _predict_layer_moments(float32_config)
        return self._moments[key]


def _predict_layer_moments(config: Mapping[str, Any]) -> _LayerMoments:
    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    images = probe_images(cell, data, scaling)
    model = cell.network()
    has_zero_mean = not any(
        bool(torch.as_tensor(moments.weight.mean).any())
        for moments in declared_moments(model, cell.init).values()
    )
    stages = parse_network(model, tuple(images.shape[1:])).stages
    has_maps = any(stage.positions > 1 for stage in stages)
    # Only `field` handles padding. It is not used for weights of non-zero mean, because it then
    # takes minutes for a deep network.
    theories = ("he", "field") if has_maps and has_zero_mean else ("he", "mean_field")
    frame = predict_cell(config, theories, whole_set=True)
    modules = dict(model.named_modules())
    finest = finest_predictions(frame)
    he = finest_predictions(frame[frame["theory"] == "he"])
    infinities = cell.activation()(torch.tensor([-inf, inf]))
    return _LayerMoments(
        float(images.abs().max()),
        tuple(_log(finest[stage.name]["preact_m2"].value) for stage in stages),
        tuple(_log(he[stage.name]["preact_m2"].value) for stage in stages),
        tuple(variance_share(finest[stage.name], stage.positions) for stage in stages),
        tuple(
            WeightShape.of(modules[stage.name]).out_features * stage.positions * len(images)
            for stage in stages
        ),
        not bool(infinities.isfinite().all()),
    )


def _log(value: float) -> float:
    return -inf if value == 0 else log(value) if isfinite(value) else value


def first_bad_layers(layers: pd.DataFrame) -> pd.Series:
    """Return the first layer with a non-finite second moment by cell and draw; NaN if none has.

    Parameters
    ----------
    layers
        The `layers` table.
    """
    rows = select(layers[layers["layer"] > 0], quantity="preact_m2", image=-1, step=0)
    bad = rows["layer"].where(~np.isfinite(rows["value"]))
    keys = [rows["cell_id"].astype(str), rows["draw"]]
    return bad.groupby(keys).min().rename("measured")


def predict_overflow(results: Results) -> pd.DataFrame:
    """Predict the first overflow of each cell of the part `settings`.

    Returns
    -------
    pandas.DataFrame
        The cells, with `layer` and `he_layer` (first overflowing layer by theory and by He's
        formula; 0: the input, NaN: none) and `finite` (True if the first loss is predicted to be
        finite).
    """
    cells = part_cells(results, "settings")
    predictor, plan = OverflowPredictor(), results.plan
    predictions: list[OverflowPrediction] = [
        predictor.predict(plan[str(cell)]["config"]) for cell in cells["cell_id"]
    ]
    return cells.assign(
        layer=np.array([prediction.layer for prediction in predictions], float),  # None: NaN
        he_layer=np.array([prediction.he_layer for prediction in predictions], float),
        finite=[prediction.is_finite for prediction in predictions],
    )


def overflow_by_draw(results: Results, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the measured and the predicted first overflowing layer of each draw.

    Cells with an overflowing input are excluded.

    Returns
    -------
    pandas.DataFrame
        One row per cell and draw: `model`, `dtype`, `layer`, `he_layer`, `measured` (NaN: none).
    """
    measured = first_bad_layers(results.layers).reset_index()
    configs = cells[cells["layer"] != 0].assign(
        cell_id=lambda frame: frame["cell_id"].astype(str),
        model=lambda frame: frame["model"].astype(str),
        dtype=lambda frame: frame["train.dtype"].astype(str),
    )
    return measured.merge(configs[["cell_id", "model", "dtype", "layer", "he_layer"]], on="cell_id")


def overflow_claims(
    cells: pd.DataFrame, networks: pd.DataFrame, criterion: Mapping[str, Any]
) -> Iterator[ClaimResult]:
    """Test the predicted first overflowing layer and the predicted finiteness of the first loss."""
    max_error = int(criterion["layers"])
    for dtype, rows in networks.groupby("dtype", sort=False):
        overflowing = rows[rows["layer"].notna() | rows["measured"].notna()]
        error = (overflowing["measured"] - overflowing["layer"]).abs().fillna(np.inf)
        exact, close = int((error == 0).sum()), int((error <= max_error).sum())
        yield ClaimResult(
            f"{dtype}: first overflowing layer at step 0, in {len(overflowing)} draws",
            f"at most {max_error} layer{'s' * (max_error > 1)} from the predicted one (theory)",
            f"the predicted layer in {share(exact, len(overflowing))}, at most "
            f"{max_error} away in {share(close, len(overflowing))}",
            bool((error <= max_error).all()) if len(overflowing) else None,
            threshold=f"at most {max_error} in every draw",
        )
    measured = networks["measured"].fillna(NO_LAYER)
    he_correct = networks["he_layer"].fillna(NO_LAYER) == measured
    correct = networks["layer"].fillna(NO_LAYER) == measured
    yield ClaimResult(
        "first overflowing layer, or none, predicted by He's product formula (all dtypes)",
        "exact less often than our theory, because the formula ignores the mean of the weights "
        "and saturation",
        f"He's formula is exact in {share(int(he_correct.sum()), len(he_correct))} draws, our "
        f"theory in {share(int(correct.sum()), len(correct))}",
        bool(he_correct.sum() < correct.sum()),
        threshold="fewer draws than our theory",
    )
    bad, predicted_bad = cells["at_start"], ~cells["finite"]
    min_share = float(criterion["predicted_share"])
    yield ClaimResult(
        f"prediction of whether the loss at step 0 is finite, {len(cells)} networks",
        f"correct in at least {min_share:.0%}",
        f"correct in {share(int((bad == predicted_bad).sum()), len(cells))}. The loss is inf or "
        f"NaN in {int(bad.sum())} networks: the theory predicts this for "
        f"{int((bad & predicted_bad).sum())} of them, and for {int((predicted_bad & ~bad).sum())} "
        "of the others",
        bool((bad == predicted_bad).mean() >= min_share),
        threshold=f"at least {min_share:.0%}",
    )


def overflow_figure(networks: pd.DataFrame) -> Figure:
    """Plot the measured against the predicted first overflowing layer, by theory and by He."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    panels = {"layer": "our theory", "he_layer": "He's product formula"}
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        _panel(axis, networks, column)
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("predicted first overflowing layer")
        sns.despine(ax=axis)
    axes[0].set_ylabel("measured first overflowing layer")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=7)
    return figure


def _panel(axis: Axes, networks: pd.DataFrame, column: str) -> None:
    ends = np.array([1.0, 60.0])
    axis.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
    axis.axhline(60.0, color="0.85", linewidth=0.8, zorder=0)
    axis.axvline(60.0, color="0.85", linewidth=0.8, zorder=0)
    points = networks.assign(
        x=networks[column].fillna(NO_LAYER), y=networks["measured"].fillna(NO_LAYER)
    )
    for number, (dtype, (marker, size)) in enumerate(STYLES.items()):
        by_dtype = points[points["dtype"] == dtype]
        # Shifted, because points of dtypes with the same range coincide.
        shift = 1 + 0.05 * (number - 1)
        for is_cnn, fill in ((False, "none"), (True, PALETTE[number])):
            rows = by_dtype[(by_dtype["model"] != "mlp") == is_cnn]
            axis.scatter(
                rows["x"] * shift, rows["y"] * shift, s=size, marker=marker, linewidth=0.8,
                edgecolor=PALETTE[number], facecolor=fill, alpha=0.8,
                label=f"{dtype}, {'CNN' if is_cnn else 'MLP'}" if len(rows) else None,
            )  # fmt: skip
    for name in ("x", "y"):
        axis.set(**{f"{name}scale": "log", f"{name}lim": (0.8, 110)})
        ticks = getattr(axis, f"{name}axis")
        ticks.set_ticks([*TICKS, NO_LAYER], [*map(str, TICKS), "none"])
        ticks.set_minor_locator(NullLocator())


def softmax_underflows(sd: float, images: int) -> float:
    """Return the probability that some image's softmax at its label is 0 in float32.

    Parameters
    ----------
    sd
        Standard deviation of the logits, taken as independent Gaussians.
    images
        Batch size; images are taken as independent.
    """
    z = np.random.default_rng(0).standard_normal((SAMPLES, CLASSES)) * sd
    per_image = float((z.max(1) - z[:, 0] > EXP_IS_0).mean())
    return 1 - (1 - per_image) ** images


def sigmoid_rounds(sd: float, images: int) -> float:
    """Return the probability that a sigmoid of the batch is exactly 0 or 1 in float32."""
    per_logit = sum(0.5 * erfc(limit / sd / 2**0.5) for limit in (SIGMOID_IS_0, SIGMOID_IS_1))
    return float(1 - (1 - per_logit) ** (images * CLASSES))


def overflows(squared: bool) -> Callable[[float, int], float]:
    """Return a function for the probability that a logit, or its square, overflows float32."""

    def probability(sd: float, images: int) -> float:
        count = images * CLASSES
        return overflow_probability(2 * float(np.log(sd)), count, torch.float32, squared=squared)

    return probability


FAILURE_PROBABILITIES: Mapping[tuple[str, str], Callable[[float, int], float]] = {
    ("bce", "naive"): sigmoid_rounds,
    ("cross_entropy", "naive"): softmax_underflows,
    ("mse", "stable"): overflows(squared=True),
    ("bce", "stable"): overflows(squared=False),
    ("cross_entropy", "stable"): overflows(squared=False),
}


def loss_failure_depths(results: Results) -> pd.DataFrame:
    """Return the smallest depth at which each loss is inf or NaN at step 0.

    Returns
    -------
    pandas.DataFrame
        One row per `loss` and `form`. `predicted`: smallest depth with a failure probability above
        1/2 (NaN if none). `last_finite`: largest depth below the first failure (0 if none).
        `first_bad`: smallest depth that fails (inf if none).
    """
    cells, plan = part_cells(results, "losses"), results.plan
    deepest = cells.loc[cells["model.depth"].idxmax(), "cell_id"]
    # The logits at depth d have the second moment of layer d of the deepest network.
    log_m2 = OverflowPredictor().predict(plan[str(deepest)]["config"]).log_m2
    min_depth = int(cells["model.depth"].min())
    sds = {n: float(np.exp(value / 2)) for n, value in enumerate(log_m2, 1) if n >= min_depth}
    depths = []
    for (loss, form), probability in FAILURE_PROBABILITIES.items():
        mask = (cells["loss"].astype(str) == loss) & (cells["loss.form"].astype(str) == form)
        rows = cells[mask].sort_values("model.depth")
        if rows.empty:
            continue
        images = int(rows["train.batch_size"].iloc[0])
        predicted = next((d for d, sd in sds.items() if probability(sd, images) > 0.5), np.nan)
        bad = rows.loc[rows["at_start"], "model.depth"]
        first_bad = float(bad.min()) if len(bad) else np.inf
        finite = rows.loc[rows["model.depth"] < first_bad, "model.depth"]
        depths.append(
            {
                "loss": loss,
                "form": form,
                "predicted": predicted,
                "last_finite": float(finite.max()) if len(finite) else 0.0,
                "first_bad": first_bad,
            }
        )
    return pd.DataFrame(depths)


def loss_claims(depths: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Test the predicted depth at which each loss first fails."""
    max_error = int(criterion["layers"])
    for row in depths.to_dict("records"):
        predicted = np.inf if np.isnan(row["predicted"]) else row["predicted"]
        holds = row["last_finite"] - max_error < predicted <= row["first_bad"] + max_error
        measured = "none" if np.isinf(row["first_bad"]) else f"depth {row['first_bad']:.0f}"
        if row["last_finite"]:
            measured += f" (finite at the next smaller tested depth, {row['last_finite']:.0f})"
        yield ClaimResult(
            f"{row['loss']}, {row['form']}, weights N(0, 1): smallest depth with an inf or NaN "
            "loss at step 0",
            "none" if np.isinf(predicted) else f"depth {predicted:.0f} (theory)",
            measured,
            bool(holds),
            threshold=f"at most {max_error} from the tested depths around the first failure",
        )
