"""Records of a certificate, for one layer and for the logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

from fanin.theory.certificate.predicted_value import PredictedValue


@dataclass(frozen=True)
class LayerDepthScales:
    """Depth scales of a deep network that repeats this layer (Schoenholz et al. 2017).

    Attributes
    ----------
    sigma_w2
        fan_in Var[w].
    sigma_b2
        Var[b].
    chi_1
        Factor per layer on the second moment of a gradient; 1 is critical.
    q_star
        Second moment of the pre-activations at infinite depth.
    xi_q, xi_c
        Depth scales, in layers, of the second moment and of the correlation between inputs.
    phase
        `ordered`, `critical` or `chaotic`; without a single fixed point `q grows`, `q shrinks` or
        `any q`.
    critical_sigma_w2
        Value of sigma_w2 that gives chi_1 = 1 with this sigma_b2.
    """

    sigma_w2: float
    sigma_b2: float
    chi_1: float = nan
    q_star: float = nan
    xi_q: float = nan
    xi_c: float = nan
    phase: str = "unknown"
    critical_sigma_w2: float = nan


@dataclass(frozen=True)
class LayerCertificate:
    """Predictions for one weight layer, or sum or normalization of a graph.

    Quantities that no requested theory predicts are NaN.

    Attributes
    ----------
    layer
        Number of the layer in forward order, from 1.
    name
        Module path.
    fan_in, outputs_per_input
        Number of inputs per output, and of outputs per input, inside one group; 0 for a sum or
        normalization of a graph.
    channels
        Number of output channels, or of units of a linear layer.
    positions
        Number of output positions per channel of one image.
    predicted
        Predictions by quantity of the `layers` table, each from the last theory of `THEORIES` that
        predicts it.
    theories
        Predicted values of every theory, by theory and quantity.
    basis
        `theory`; `measured restart` if the prediction starts from measured activations; `measured`
        if the layer's own output is measured.
    moments
        Source of the weight moments: `declared`, `given` or `estimated`.
    has_zero_mean_weights
        True if the weights have mean 0.
    restarted_at
        The layer without a formula after which the prediction restarted; None without a restart.
    overflow
        Probability that a pre-activation of the batch overflows, by dtype.
    log_sensitivity
        d log E[x^2] / d log q, where x is the next layer's input: a relative error of q becomes
        this factor times as large in E[x^2].
    depth
        Depth scales for this layer's weights and the activation after it.
    measured
        Mean over draws and its standard error, by quantity; empty without measurement.
    module
        Type and sizes of the module, such as `Conv2d(16, 32, 3)`.
    output_shape
        Shape of the output for one image, such as (32, 16, 16).
    parameters
        Number of weights and biases.
    activation
        Type of the activation after the layer, such as `ReLU`; "" if there is none.
    bias_m2
        E[b^2] of the biases; 0 without biases.
    input_activation
        Type of the activation before a weight layer of a graph, "" if there is none, `images` for
        the network's input. None for a sequence of modules: the activation of the layer before.
    in_branch
        True if another path from the images to the output avoids this tensor, as in a residual
        branch.
    """

    layer: int
    name: str
    fan_in: int
    outputs_per_input: int
    channels: int
    positions: int
    predicted: Mapping[str, PredictedValue]
    theories: Mapping[str, Mapping[str, float]]
    basis: str
    moments: str
    has_zero_mean_weights: bool
    restarted_at: str | None = None
    overflow: Mapping[str, float] = field(default_factory=dict)
    log_sensitivity: float = nan
    depth: LayerDepthScales | None = None
    measured: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    module: str = ""
    output_shape: tuple[int, ...] = ()
    parameters: int = 0
    activation: str = ""
    bias_m2: float = 0.0
    input_activation: str | None = None
    in_branch: bool = False

    def __repr__(self) -> str:
        return f"LayerCertificate({self.description}, E[y^2]={self.q:.3g})"

    @property
    def description(self) -> str:
        """Number, type, path and output shape, for messages."""
        module = f"{self.module} " if self.module else ""
        shape = f", output {self.shape_text}" if self.output_shape else ""
        return f'layer {self.layer} ({module}"{self.name}"{shape})'

    @property
    def label(self) -> str:
        """Number, type and path, for messages."""
        return layer_label(self.layer, self.module, self.name)

    @property
    def shape_text(self) -> str:
        """Output shape for one image, such as `32×16×16`."""
        return "×".join(map(str, self.output_shape))

    @property
    def backward_norm_m2(self) -> float:
        """Expected squared norm of the gradient with respect to the output, for a random cotangent.

        With He init it is equal in all layers, whatever their widths.
        """
        return self.value("vjp_m2") * self.channels * self.positions

    def value(self, quantity: str) -> float:
        """Return the predicted mean over the images of one quantity; NaN if not predicted."""
        prediction = self.predicted.get(quantity)
        return nan if prediction is None else prediction.value

    @property
    def mean(self) -> float:
        """E[y] of the pre-activations."""
        return self.value("preact_mean")

    @property
    def q(self) -> float:
        """E[y^2] of the pre-activations."""
        return self.value("preact_m2")

    @property
    def var(self) -> float:
        """Variance of the pre-activations over units and positions of one image."""
        return self.value("preact_var")

    @property
    def dead_fraction(self) -> float:
        """Expected fraction of units that are zero on the whole batch."""
        return self.value("dead_fraction")

    @property
    def method(self) -> str:
        """Method of the predicted second moment; "" if not predicted."""
        prediction = self.predicted.get("preact_m2")
        return "" if prediction is None else prediction.method

    @property
    def interval_method(self) -> str:
        """Method of the interval of the second moment; "" if not predicted."""
        prediction = self.predicted.get("preact_m2")
        return "" if prediction is None else prediction.distribution.method

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of one draw's second moment; None if unknown."""
        prediction = self.predicted.get("preact_m2")
        return None if prediction is None else prediction.interval

    def as_dict(self) -> dict[str, Any]:
        """Return the record as nested dictionaries."""
        predicted = {
            quantity: {
                "value": prediction.value,
                "log_sd": prediction.log_sd,
                "interval": prediction.interval,
                "sampling_se": prediction.sampling_se,
                "theory": prediction.theory,
                "method": prediction.method,
                "zero_probability": prediction.zero_probability,
                "log_skew": prediction.log_skew,
                **(
                    {}
                    if prediction.spread is None
                    else {"interval_method": prediction.spread.method}
                ),
            }
            for quantity, prediction in self.predicted.items()
        }
        measured = {
            quantity: {"mean": mean, "se": se} for quantity, (mean, se) in self.measured.items()
        }
        depth = {} if self.depth is None else dict(vars(self.depth))
        return {
            "layer": self.layer,
            "layer_name": self.name,
            "module": self.module,
            "output_shape": list(self.output_shape),
            "parameters": self.parameters,
            "activation": self.activation,
            "bias_m2": self.bias_m2,
            "fan_in": self.fan_in,
            "outputs_per_input": self.outputs_per_input,
            "channels": self.channels,
            "positions": self.positions,
            "basis": self.basis,
            "restarted_at": self.restarted_at,
            "moments": self.moments,
            "predicted": predicted,
            "dead_fraction": self.dead_fraction,
            "overflow": dict(self.overflow),
            "log_sensitivity": self.log_sensitivity,
            **depth,
            **{theory: dict(values) for theory, values in self.theories.items()},
            **({"measured": measured} if measured else {}),
        }


def layer_label(number: int, module: str, name: str) -> str:
    """Return a layer's number, type and path, for messages.

    Examples
    --------
    >>> layer_label(3, "Conv2d(16, 32, 3)", "features.4")
    'layer 3 (Conv2d "features.4")'
    """
    kind = module.partition("(")[0]
    return f'layer {number} ({kind} "{name}")' if kind else f'layer {number} ("{name}")'


def relative_units(layer: LayerCertificate, last: LayerCertificate) -> float:
    """Return the layer's number of outputs divided by that of the last layer.

    The cotangent at the last layer has a mean square of 1.
    """
    return layer.channels * layer.positions / (last.channels * last.positions)


@dataclass(frozen=True)
class OutputCertificate:
    """Predictions for the logits, averaged over the images.

    Attributes
    ----------
    n_logits
        Number of logits.
    logit_var
        Expected variance over the logits of one image.
    initial_loss
        Expected loss before training, by loss (`cross_entropy`, `mse`, `bce`).
    gradient_m2
        E[|dL/dlogits|^2] / n_logits, where L is the requested loss of one image.
    """

    n_logits: int
    logit_var: float
    initial_loss: Mapping[str, float] = field(default_factory=dict)
    gradient_m2: float = nan

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a dictionary."""
        return {
            "n_logits": self.n_logits,
            "logit_var": self.logit_var,
            "initial_loss": dict(self.initial_loss),
            "gradient_m2": self.gradient_m2,
        }


def to_json_types(value: Any) -> Any:
    """Convert to types that JSON supports; non-finite numbers become None.

    Examples
    --------
    >>> to_json_types({"q": (1.0, float("inf"))})
    {'q': [1.0, None]}
    """
    match value:
        case Mapping():
            return {key: to_json_types(entry) for key, entry in value.items()}
        case list() | tuple():
            return [to_json_types(entry) for entry in value]
        case float():
            return value if isfinite(value) else None
    return value
