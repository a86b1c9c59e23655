"""`Certificate`: predictions for every layer of one network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.console import Group
from torch import Tensor, nn

from fanin.diagnosis.finding import Finding
from fanin.diagnosis.inputs import check_inputs
from fanin.text import to_html, to_text
from fanin.theory.certificate.fixes import Fix, find_fix
from fanin.theory.certificate.judge import Limits, judge
from fanin.theory.certificate.plot import plot_certificate
from fanin.theory.certificate.record import LayerCertificate, OutputCertificate, to_json_types
from fanin.theory.certificate.remedies import Setup
from fanin.theory.certificate.render import render
from fanin.theory.certificate.verdicts import Verdict
from fanin.theory.certificate.weights import WeightMoments
from fanin.theory.field import Sampling, propagate_field
from fanin.theory.graph.network import parse_graph
from fanin.theory.layer_kind import LayerKind
from fanin.theory.moments import LayerMoments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Map = Float[np.ndarray, "image *position"]


@dataclass(frozen=True)
class MomentMaps:
    """Moments over draws of the weights, at each position of each image.

    Attributes
    ----------
    mean
        E[y(p)] of the pre-activation.
    m2
        E[y(p)^2] of the pre-activation.
    vjp_m2
        E[d(p)^2] of the cotangent.
    """

    mean: Map
    m2: Map
    vjp_m2: Map


@dataclass(frozen=True)
class CertificateInputs:
    """Network, images and settings of a certificate, for computing further predictions."""

    model: nn.Module
    images: Float[Tensor, "image ..."]
    weights: WeightMoments
    seed: int
    layer_kinds: tuple[LayerKind, ...] = ()
    n_given: int = 0  # number of images before subsampling
    is_graph: bool = False


@dataclass(frozen=True)
class Certificate:
    """Predictions for every layer of one network before training. Created by `certify`.

    Attributes
    ----------
    layers
        A record per weight layer, in forward order; of a graph also per sum and normalization.
    output
        Predictions for the logits.
    frame
        Rows of the table `predictions`, for every image and their mean (-1). Instead of `cell_id`
        there is the column `basis`: `theory`, `measured restart` or `measured`.
    theories
        Names of the requested theories.
    moments
        Source of the weight moments: `declared` by the init, `given`, or `estimated` from the
        model's current weights.
    overflows_at
        By dtype, the first layer with an overflow probability above 1/2, or None.
    inputs
        Network, images and settings.
    draws
        Measured draws, with columns `draw`, `image`, `layer`, `layer_name`, `quantity`, `value`;
        empty without measurement.
    unpredicted
        Reason for each layer without a formula, by layer name; empty without `restart`.
    sharpness
        Largest Hessian eigenvalue of one draw by layer, and for the whole network under the key
        ""; empty unless requested.
    loss
        Name of the loss.
    notes
        What is not predicted, in sentences.
    """

    layers: tuple[LayerCertificate, ...]
    output: OutputCertificate
    frame: pd.DataFrame
    theories: tuple[str, ...]
    moments: str
    overflows_at: Mapping[str, str | None]
    inputs: CertificateInputs = field(repr=False, compare=False)
    draws: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    unpredicted: Mapping[str, str] = field(default_factory=dict)
    sharpness: Mapping[str, float] = field(default_factory=dict)
    loss: str = "cross_entropy"
    notes: tuple[str, ...] = ()

    def layer(self, name: str) -> LayerCertificate:
        """Return the record of one layer.

        Raises
        ------
        KeyError
            The layer does not exist.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise KeyError(f"no layer named {name}; choose one of {names}")

    def maps(self, name: str) -> MomentMaps:
        """Return the moments of one layer at every position, predicted by theory `field`.

        Raises
        ------
        KeyError
            The layer does not exist.
        UnpredictableLayer
            Theory `field` has no formula for a layer.
        """
        self.layer(name)
        inputs = self.inputs
        if inputs.is_graph:
            network = parse_graph(inputs.model, inputs.weights.moments, inputs.images)
            return MomentMaps(*network.maps(name, inputs.seed))
        return _layer_maps(
            *(inputs.model, inputs.weights.moments, inputs.images, name),
            *(inputs.seed, inputs.layer_kinds),
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of `frame`, with one row per predicted value."""
        return self.frame.copy()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Problems of unhealthy layers, according to the default `Limits`."""
        return judge(self.layers)

    @cached_property
    def input_findings(self) -> tuple[Finding, ...]:
        """Problems of the images, such as raw pixels, as `diagnose` reports them."""
        return tuple(check_inputs({"images": self.inputs.images}))

    @cached_property
    def fix(self) -> Fix:
        """Changes that together fix all problems, according to the default `Limits`."""
        return self.find_fix()

    def find_fix(self, limits: Limits | None = None) -> Fix:
        """Return the smallest set of changes that fixes all problems.

        Parameters
        ----------
        limits
            Limits of a healthy init. None uses `Limits()`.

        Returns
        -------
        Fix
            The changes, and whether they are predicted to be enough.
        """
        inputs = self.inputs
        return find_fix(
            judge(self.layers, limits),
            Setup(inputs.model, inputs.weights.moments, inputs.images),
            lambda layers: judge(layers, limits),
            inputs.layer_kinds,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the certificate as nested dictionaries, with None for non-finite numbers."""
        contents = {
            "moments": self.moments,
            "theories": list(self.theories),
            "layers": [layer.as_dict() for layer in self.layers],
            "output": self.output.as_dict(),
            "overflows_at": dict(self.overflows_at),
            "unpredicted": dict(self.unpredicted),
            "loss": self.loss,
            "notes": list(self.notes),
            "sharpness": dict(self.sharpness),
            "input_findings": [asdict(finding) for finding in self.input_findings],
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
        }
        json_contents: dict[str, Any] = to_json_types(contents)
        return json_contents

    def to_json(self, indent: int | None = 2) -> str:
        """Return the certificate as a JSON object."""
        return json.dumps(self.as_dict(), indent=indent, allow_nan=False)

    def plot(self, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
        """Draw signal and gradient of every layer with 95 % intervals, on logarithmic axes.

        Parameters
        ----------
        axes
            Two axes to draw on: for the rms of the pre-activations, and for the norm of the
            gradient with respect to them, relative to the logits. None creates a figure.

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
        >>> from fanin import certify
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> certificate = certify(net, np.ones((1, 1, 8, 8)), init="he_normal")
        >>> [axes.get_yscale() for axes in certificate.plot()]
        ['log', 'log']
        """
        return plot_certificate(self.layers, self.verdicts, axes)

    def __repr__(self) -> str:
        problems: list[str] = [finding.cause for finding in self.input_findings]
        problems += sorted({verdict.problem for verdict in self.verdicts})
        health = f"unhealthy: {', '.join(problems)}" if problems else "healthy"
        return f"Certificate({len(self.layers)} layers, {health})"

    def __str__(self) -> str:
        return to_text(render(self))

    def __rich__(self) -> Group:
        return render(self)

    def _repr_html_(self) -> str:
        return to_html(render(self))


def _layer_maps(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image ..."],
    name: str,
    seed: int,
    layer_kinds: Sequence[LayerKind],
) -> MomentMaps:
    """Return one layer's maps predicted by theory `field`, averaged over its repeats."""
    sampling = Sampling(seed=seed)
    result = propagate_field(model, moments, images, sampling=sampling, layer_kinds=layer_kinds)
    repeats = [next(layer for layer in layers if layer.name == name) for layers in result.passes]
    shape = (len(images), *repeats[0].taps.positions)

    def average(maps: list[Tensor]) -> Map:
        # Averages over repeats, particles and the groups of a grouped first layer.
        return np.mean([m.mean((1, 2)).reshape(shape).numpy() for m in maps], axis=0)

    cotangents = [layer.cotangent for layer in repeats if layer.cotangent is not None]
    return MomentMaps(
        mean=average([layer.preact.expected_mean for layer in repeats]),
        m2=average([layer.preact.m2 for layer in repeats]),
        vjp_m2=average([cotangent.m2 for cotangent in cotangents]),
    )
