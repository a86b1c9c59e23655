"""A network as a graph: its rows, predictions, drawn networks, and quantities of several images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.graph import GraphError
from fanin.probes.graph_trace import GraphTracer, TracedNode
from fanin.theory.assumptions import NO_ASSUMPTIONS, Assumptions
from fanin.theory.field.sampling import Sampling
from fanin.theory.finite_width.simulate import simulate_networks
from fanin.theory.graph.plan import GraphPlan, plan_graph
from fanin.theory.graph.predict import predict_plan, run_plan
from fanin.theory.graph.propagate import TensorMoments
from fanin.theory.graph.rows import GraphRow, find_rows
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import LayerMoments
from fanin.theory.prediction import Prediction

GRAPH_THEORIES = ("field", "finite_width")
"""Theories that predict graphs; the second one draws networks (method `simulated`)."""
Images = Float[Tensor, "image channel *position"]


@dataclass(frozen=True)
class WeightStage:
    """A weight layer: its path, positions per output channel, and output shape for one image."""

    name: str
    positions: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class GraphNetwork:
    """A network as a graph.

    Attributes
    ----------
    model, moments, images
        The network, the moments of its weights, and its inputs.
    plan
        Steps of the graph.
    rows
        The reported tensors in forward order; the last one is the output.
    """

    model: nn.Module
    moments: Mapping[str, LayerMoments]
    images: Images
    plan: GraphPlan
    rows: tuple[GraphRow, ...]

    @property
    def stages(self) -> Sequence[WeightStage]:
        """The weight layers."""
        return [
            WeightStage(row.weight_layer, row.positions, row.output_shape)
            for row in self.rows
            if row.weight_layer
        ]

    @property
    def tracer(self) -> GraphTracer:
        """Function that records the rows of a copy of the model."""
        nodes = [TracedNode(row.name, row.node, row.activation_node) for row in self.rows]
        return GraphTracer(self.model, self.plan.batch_graph, nodes)

    def predict(
        self, theory: str, seed: int, measured: Mapping[int, Tensor] | None = None
    ) -> pd.DataFrame:
        """Predict the moments of all rows with a theory of `GRAPH_THEORIES`.

        `measured` has the values of the plan's measured tensors in a drawn network.
        """
        is_field = theory == "field"
        prediction = self._field(seed, measured) if is_field else self._simulated(seed)
        frame = prediction.to_frame()
        weighted = frame.layer_name.map({row.name: bool(row.weight_layer) for row in self.rows})
        frame = frame[weighted | (frame.quantity != "weight_vjp_m2")]
        return frame.reset_index(drop=True)

    def _field(self, seed: int, measured: Mapping[int, Tensor] | None) -> Prediction:
        return predict_plan(self.plan, self.images, Sampling(seed=seed), measured)

    def _simulated(self, seed: int) -> Prediction:
        draws = simulate_networks(
            self.model, self, self.moments, self.images, seed=seed, tracer=self.tracer
        )
        names = tuple(row.name for row in self.rows)
        return Prediction("finite_width", "simulated", names, {}, draws.distributions())

    def predict_joint(self, seed: int) -> dict[str, tuple[float, float]]:
        """Return the correlation between images and the fraction of dead units, by row.

        As `certificate.joint.JointQuantities`, from one field over all images.
        """
        plan = self.plan
        if not plan.joint:
            plan = parse_graph(self.model, self.moments, self.images, joint=True).plan
        (tensors,) = run_plan(plan, self.images, seed, 0)
        steps = {node.index: step for node, step in plan.step_of.items()}
        return {
            row.name: (
                _correlation(tensors[row.step]),
                nan
                if row.activation_node is None
                else _zero_share(tensors[steps[row.activation_node]]),
            )
            for row in self.rows
        }

    def maps(self, name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean, second moment and squared cotangent of a row at every position."""
        row = next(row for row in self.rows if row.name == name)
        shape = (len(self.images), *self.plan.layouts[row.step].positions)

        def maps_of_field(tensors: Sequence[TensorMoments]) -> tuple[Tensor, Tensor, Tensor]:
            value, cotangent = tensors[row.step].value, tensors[row.step].cotangent
            vjp_m2 = torch.full_like(value.m2, nan) if cotangent is None else cotangent.m2
            return value.mean, value.m2, vjp_m2

        parts = zip(*map(maps_of_field, run_plan(self.plan, self.images, seed, 0)), strict=True)
        mean, m2, vjp_m2 = (torch.cat(part).reshape(shape).numpy() for part in parts)
        return mean, m2, vjp_m2


def parse_graph(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Images,
    *,
    joint: bool = False,
    assumptions: Assumptions = NO_ASSUMPTIONS,
    restart: bool = False,
) -> GraphNetwork:
    """Record a model's graph and find its rows.

    Raises
    ------
    UnpredictableLayer
        The graph cannot be recorded, or theory has no rule for an operation. The message names the
        module and the user's line.
    """
    images = images.detach().to("cpu", torch.float64)
    if any(p.dtype != torch.float64 or p.device.type != "cpu" for p in model.parameters()):
        model = deepcopy(model).to("cpu", torch.float64)
    try:
        plan = plan_graph(
            *(model, moments, images, Sampling()),
            joint=joint,
            assumptions=assumptions,
            restart=restart,
        )
    except GraphError as error:
        line = f" ({error.line})" if error.line else ""
        raise UnpredictableLayer(error.path, error.reason + _dtype_advice(error) + line) from error
    rows = find_rows(plan, dict(model.named_modules()))
    if not any(row.weight_layer for row in rows):
        raise UnpredictableLayer("", "it has no weight layer")
    return GraphNetwork(model, moments, images, plan, rows)


def _dtype_advice(error: GraphError) -> str:
    """Return what to write instead of a conversion to float32, if this caused an error."""
    text = str(error.reason).lower()
    if "runtimeerror" not in text or "float" not in text or "double" not in text:
        return ""
    return (
        "; theory runs the model in float64, so write x.to(self.weight.dtype) instead of x.float()"
        " or x.to(torch.float32)"
    )


def _correlation(tensor: TensorMoments) -> float:
    """Return the mean over pairs of images of the cosine of their maps."""
    value = tensor.value
    images = value.shape[0]
    blocks = value.products.unflatten(1, (images, -1)).unflatten(0, (images, -1))
    inner = blocks.diagonal(dim1=1, dim2=3).sum(-1)
    norm = inner.diagonal().sqrt()
    is_pair = (norm > 0)[:, None] & (norm > 0) & ~torch.eye(images, dtype=torch.bool)
    cosine = inner / (norm[:, None] * norm)
    return float(cosine[is_pair].mean()) if is_pair.any() else nan


def _zero_share(tensor: TensorMoments) -> float:
    """Return the fraction of channels that are 0 at all positions of all images."""
    value = tensor.value
    shares = [
        group.size * float((group.channel.sample_points == 0).all(1).double().mean())
        for group in value.groups
    ]
    return sum(shares) / value.n_channels
