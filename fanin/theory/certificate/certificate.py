"""The certificate: every layer of one network, predicted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from jaxtyping import Float
from rich.console import Group
from torch import Tensor, nn

from fanin.theory.certificate.record import LayerCertificate, OutputCertificate, plain
from fanin.theory.certificate.weights import Weights

if TYPE_CHECKING:
    from fanin.theory.certificate.maps import Maps
    from fanin.theory.certificate.verdicts import Verdict


@dataclass(frozen=True)
class Subject:
    """What was certified: kept, so that more can be asked of the same network."""

    model: nn.Module
    images: Float[Tensor, "image ..."]
    weights: Weights
    seed: int


@dataclass(frozen=True)
class Certificate:
    """What theory says of every layer of one network, before it is trained. Made by `certify`.

    Attributes
    ----------
    layers
        A record per weight layer, in forward order.
    output
        What follows for the logits.
    frame
        Rows of the `predictions` table without `cell_id`, and `basis`: `theory` or `measured
        restart`. Every image, and -1 for the mean over them.
    rungs
        What was asked, from coarse to fine.
    moments
        Whether the weights' moments were `declared`, `given` or `estimated` from one draw.
    overflows_at
        By dtype, the first layer where overflow is likely (its chance is over a half), or None.
    unpredicted
        Layers that theory has no formula for, and why; empty unless `restart` was asked.
    sharpness
        The largest Hessian eigenvalue of one draw, by layer and (key "") of the whole net; empty
        unless asked.
    draws
        Measured draws, where they were asked for: `draw`, `image`, `layer`, `layer_name`,
        `quantity`, `value`.
    loss
        Its name.
    of
        The network itself.
    """

    layers: tuple[LayerCertificate, ...]
    output: OutputCertificate
    frame: pd.DataFrame
    rungs: tuple[str, ...]
    moments: str
    overflows_at: Mapping[str, str | None]
    of: Subject = field(repr=False, compare=False)
    draws: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    unpredicted: Mapping[str, str] = field(default_factory=dict)
    sharpness: Mapping[str, float] = field(default_factory=dict)
    loss: str = "cross_entropy"

    def layer(self, name: str) -> LayerCertificate:
        """The layer of that name.

        Raises
        ------
        KeyError
            There is none.
        """
        for each in self.layers:
            if each.name == name:
                return each
        raise KeyError(f"no layer {name}; there are {', '.join(each.name for each in self.layers)}")

    def maps(self, name: str) -> Maps:
        """A layer's moments position by position, by the field.

        Raises
        ------
        KeyError
            There is no such layer.
        UnpredictableLayer
            The field has no formula for the network.
        """
        from fanin.theory.certificate.maps import layer_maps

        self.layer(name)
        return layer_maps(
            self.of.model, self.of.weights.moments, self.of.images, name, self.of.seed
        )

    def to_frame(self) -> pd.DataFrame:
        """The predictions, a row a number."""
        return self.frame.copy()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Which layers are unhealthy, by the default `Limits`."""
        from fanin.theory.certificate.verdicts import verdicts

        return verdicts(self)

    def as_dict(self) -> dict[str, Any]:
        """The whole certificate as plain data; what is no finite number is None."""
        told = {
            "moments": self.moments,
            "rungs": list(self.rungs),
            "layers": [layer.as_dict() for layer in self.layers],
            "output": self.output.as_dict(),
            "overflows_at": dict(self.overflows_at),
            "unpredicted": dict(self.unpredicted),
            "loss": self.loss,
            "sharpness": dict(self.sharpness),
            "verdicts": [vars(verdict) for verdict in self.verdicts],
        }
        cleaned: dict[str, Any] = plain(told)
        return cleaned

    def to_json(self, indent: int | None = 2) -> str:
        """The whole certificate as a JSON object."""
        return json.dumps(self.as_dict(), indent=indent, allow_nan=False)

    def __rich__(self) -> Group:
        from fanin.theory.certificate.printing import as_renderable

        return as_renderable(self)
