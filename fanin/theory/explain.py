"""`explain`: the ratio of measured to He-predicted second moments, factor by factor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.console import Group
from torch import Tensor, nn

from fanin.errors import ConfigError
from fanin.images import MAX_IMAGES
from fanin.inits import set_scalars
from fanin.plots import create_axes, label_layers, plot_factors
from fanin.probes.trace import trace
from fanin.progress import show_progress
from fanin.statistics.draw_distribution import SHAPE, predicted_mean_log
from fanin.text import to_html, to_text
from fanin.theory.certificate.measured import measure_draws
from fanin.theory.certificate.weights import InitLike, prepare_inputs, resolve_moments
from fanin.theory.cost import expected_phases
from fanin.theory.explanation_steps import STEP_THEORIES, STEPS, graph_steps, sequence_steps
from fanin.theory.explanation_table import (
    AXIS_LABELS,
    NEGLIGIBLE,
    render_explanation,
)
from fanin.theory.graph.network import parse_graph
from fanin.theory.layer_kind import LayerKind
from fanin.theory.network import describe_layer, is_sequence, parse_network

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORWARD, BACKWARD = "preact_m2", "vjp_m2"


@dataclass(frozen=True)
class Explanation:
    """Factors between He's prediction and the measurement. Created by `explain`.

    Attributes
    ----------
    frame
        Columns `quantity` (`preact_m2`, `vjp_m2`), `layer`, `layer_name`, `step` (one of `STEPS`),
        `factor` (cumulative from the first layer, or for `vjp_m2` from the last), `log_se`
        (standard error of log `factor`) and `layer_factor` (`factor` divided by that of the
        previous layer in the same direction).
    ends
        Columns `quantity`, `layer`, `layer_name`, `he`, `measured` (geometric mean over the draws
        that are not 0) and `log_se` (standard error of log `measured`). The product of all factors
        is `measured` / `he`.
    draws
        Number of measured draws.
    width_method
        Method of the step `width`, a name from `fanin.theory.prediction.METHODS`. If it is
        `simulated`, the factors `width` and `rest` compare drawn networks with drawn networks.
    modules
        Type, output shape and number of parameters of each layer, by layer name.
    """

    frame: pd.DataFrame
    ends: pd.DataFrame
    draws: int
    width_method: str
    modules: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)

    def factors(self, quantity: str = FORWARD) -> pd.DataFrame:
        """Return the factors as a table with a row per layer and a column per step."""
        rows = self.frame[self.frame.quantity == quantity]
        wide = rows.pivot(index="layer_name", columns="step", values="factor")
        return wide.loc[rows.layer_name.unique(), list(STEPS)]

    def network_factors(self, quantity: str = FORWARD) -> pd.Series:
        """Return the factors of the whole network (last layer, or first layer for `vjp_m2`)."""
        factors = self.factors(quantity)
        return factors.iloc[-1 if quantity == FORWARD else 0]

    def plot(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw the factors of every layer, forward and backward, and their product.

        Parameters
        ----------
        axes
            Two axes to draw on, for the forward and the backward pass. None creates a figure.

        Returns
        -------
        tuple of matplotlib.axes.Axes
            The two axes.

        Raises
        ------
        FaninError
            matplotlib is not installed.

        Examples
        --------
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        >>> forward, backward = explain(net, np.ones((1, 1, 8, 8)), "he_normal", draws=2).plot()
        >>> forward.get_ylabel()
        'forward: factor on E[$y^2$]'
        """
        forward, backward = create_axes(2, self.ends["layer"].nunique(), axes)
        for ax, quantity in ((forward, FORWARD), (backward, BACKWARD)):
            ends, factors = self.ends[self.ends["quantity"] == quantity], self.factors(quantity)
            with np.errstate(divide="ignore", invalid="ignore"):
                total = (ends["measured"] / ends["he"]).tolist()
            plot_factors(ax, factors, total, AXIS_LABELS[quantity], NEGLIGIBLE)
        names = [str(name) for name in ends["layer_name"]]
        numbered = [f"{n}: {name}" for n, name in zip(ends["layer"], names, strict=True)]
        label_layers(backward, numbered, [self.modules.get(name, ("",))[0] for name in names])
        forward.tick_params(labelbottom=False)
        return forward, backward

    def __repr__(self) -> str:
        return f"Explanation({self.ends.layer.nunique()} layers, {self.draws} draws)"

    def __str__(self) -> str:
        return to_text(self.__rich__())

    def __rich__(self) -> Group:
        return render_explanation(
            {quantity: self.factors(quantity) for quantity in (FORWARD, BACKWARD)},
            *(self.ends, self.modules, self.draws, self.width_method),
        )

    def _repr_html_(self) -> str:
        return to_html(self.__rich__())


def explain(
    model: nn.Module,
    images: Float[Tensor | np.ndarray, "image ..."],
    init: InitLike | None = None,
    *,
    measured: pd.DataFrame | None = None,
    draws: int = 16,
    seed: int = 0,
    layer_kinds: Sequence[LayerKind] = (),
    max_images: int | None = MAX_IMAGES,
    quiet: bool = False,
) -> Explanation:
    """Explain the difference between He's prediction and the measurement as a product of factors.

    Each step drops one assumption of He's formula. Its factor is the prediction after the step
    divided by the prediction before it. The predictions are those of theory `mean_field` for the
    first three steps and of theory `field` after that:

    1. `activation`: the actual activation function instead of He's gain.
    2. `weight mean`: weights of non-zero mean.
    3. `biases`: biases.
    4. `stride`: the positions that strides skip. In this step, images have no structure, padding
       is circular, and pooling takes the middle of each window.
    5. `real data`: the actual images.
    6. `padding`: the actual padding.
    7. `pooling`: the actual pooling.
    8. `width`: geometric mean over networks of this width instead of the arithmetic mean.
    9. `rest`: measurement divided by the prediction with all steps.

    The product of all factors is exactly measured / He.

    In a network with branches, He's prediction is that of theory `field` with He's gain in place of
    each activation, for images without structure. Theory `field` also predicts the next steps, and
    drawn networks the step `width`. Poolings that are written as a mean over positions belong to
    the step `real data`. So do the statistics of batch and instance normalization: in the steps
    before it, they are those expected over the channels (mean 0 and E[y^2]).

    Parameters
    ----------
    model, images, init, layer_kinds, max_images, quiet
        Same as for `certify`.
    measured
        Measured draws to explain (`Certificate.draws`). None measures `draws` new ones.
    draws
        Number of draws to measure.
    seed
        Seed of the draws and of the theories' own sampling.

    Returns
    -------
    Explanation
        Print it to see the factors of every layer.

    Raises
    ------
    UnpredictableLayer
        A theory has no formula for a layer.
    InputError
        The images or the model are invalid.
    ConfigError
        `draws` is below 1, or `init` is unknown.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    >>> explanation = explain(net, torch.ones(1, 1, 8, 8), "he_normal", draws=4)
    >>> round(float(explanation.network_factors()["activation"]), 2)  # He's formula assumes linear
    0.26
    """
    if measured is None and draws < 1:
        raise ConfigError(f"draws={draws}: must be 1 or more")
    net, inputs, _, _ = prepare_inputs("explain", model, images, max_images=max_images, quiet=quiet)
    weights = resolve_moments(net, init)
    if weights.init is not None:
        set_scalars(net, weights.init)
    theories = [theory for _, theory in STEP_THEORIES]
    phases, details = expected_phases(
        net, inputs, theories, moments=weights.moments, layer_kinds=layer_kinds
    )
    network = None
    if not is_sequence(net, tuple(inputs.shape[1:]), layer_kinds):
        network = parse_graph(net, weights.moments, inputs)
    if measured is None:
        draw_phases, details = expected_phases(
            net, inputs, (), draws=draws, layer_kinds=layer_kinds
        )
        phases = [*draw_phases, *phases]
    with show_progress("explain", phases, details=details, quiet=quiet):
        if measured is None:
            tracer = trace if network is None else network.tracer
            measured = measure_draws(net, inputs, weights, draws, seed, tracer=tracer)
        if network is None:
            frames = sequence_steps(net, weights.moments, inputs, seed, layer_kinds)
        else:
            frames = graph_steps(network, seed)
        predicted, predicted_se, width_method = _log_predictions(frames)
    ends, factors = [], []
    for quantity in (FORWARD, BACKWARD):
        names = list(predicted[quantity].index)
        log_measured, log_se, n = _mean_log(measured, quantity, names)
        logs = predicted[quantity].assign(rest=log_measured)
        log_ses = predicted_se[quantity].assign(rest=log_se)
        factors.append(_factors(quantity, logs, log_ses))
        ends.append(
            pd.DataFrame(
                {
                    "quantity": quantity,
                    "layer": range(1, len(logs) + 1),
                    "layer_name": logs.index,
                    "he": np.exp(logs["he"].to_numpy()),
                    "measured": np.exp(log_measured),
                    "log_se": log_se,
                }
            )
        )
    factor_table, end_table = (pd.concat(t, ignore_index=True) for t in (factors, ends))
    if network is None:
        stages = parse_network(net, tuple(inputs.shape[1:]), layer_kinds).stages
        modules = {stage.name: describe_layer(net, stage) for stage in stages}
    else:
        modules = {row.name: row.describe(net) for row in network.rows}
    return Explanation(factor_table, end_table, n, width_method, modules)


def _log_predictions(
    frames: Iterable[tuple[str, pd.DataFrame]],
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame], str]:
    """Return log predictions and standard errors [layer, step] by quantity, and the last method."""
    logs: dict[str, dict[str, pd.Series]] = {FORWARD: {}, BACKWARD: {}}
    errors: dict[str, dict[str, pd.Series]] = {FORWARD: {}, BACKWARD: {}}
    for step, frame in frames:
        for quantity in logs:
            rows = frame[(frame.image == -1) & (frame.quantity == quantity)]
            rows = rows.set_index("layer_name")
            with np.errstate(divide="ignore", invalid="ignore"):
                log_value = np.log(rows.value)
                # The geometric mean over networks is below the arithmetic mean (Hanin & Nica 2020).
                # It leaves out networks with a moment of 0.
                shape = rows[[*SHAPE]].fillna(0.0)
                mean_log = predicted_mean_log(log_value, *shape.to_numpy(float).T)
                logs[quantity][step] = pd.Series(mean_log, rows.index)
                errors[quantity][step] = rows.sampling_se / rows.value
    return (
        {quantity: pd.DataFrame(columns) for quantity, columns in logs.items()},
        {quantity: pd.DataFrame(columns) for quantity, columns in errors.items()},
        str(frame.method.iloc[0]),
    )


def _mean_log(
    draws: pd.DataFrame, quantity: str, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, int]:
    rows = draws[(draws.image == -1) & (draws.quantity == quantity)]
    wide = rows.pivot(index="draw", columns="layer_name", values="value")[list(names)]
    wide = wide.where(wide != 0)  # the geometric mean leaves out draws of 0
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(wide)
    return logs.mean().to_numpy(), logs.sem(ddof=1).to_numpy(), len(logs)


def _factors(quantity: str, logs: pd.DataFrame, errors: pd.DataFrame) -> pd.DataFrame:
    steps = logs.diff(axis=1)[list(STEPS)]
    log_se = np.sqrt(errors**2 + errors.shift(1, axis=1) ** 2)[list(STEPS)]
    layer_steps = steps - steps.shift(1 if quantity == FORWARD else -1).fillna(0.0)
    n = len(logs)
    return pd.DataFrame(
        {
            "quantity": quantity,
            "layer": np.repeat(np.arange(1, n + 1), len(STEPS)),
            "layer_name": np.repeat(logs.index.to_numpy(object), len(STEPS)),
            "step": np.tile(np.array(STEPS, dtype=object), n),
            "factor": np.exp(steps.to_numpy()).ravel(),
            "log_se": log_se.to_numpy().ravel(),
            "layer_factor": np.exp(layer_steps.to_numpy()).ravel(),
        }
    )
