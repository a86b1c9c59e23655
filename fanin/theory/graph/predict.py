"""Theory `field` on the graph of any module: residual blocks, concatenation, normalization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.graph import Graph, Node, record
from fanin.theory.field.sampling import Quantities, Sampling, is_precise
from fanin.theory.graph.build import Builder, step_name
from fanin.theory.graph.channel import samples_for
from fanin.theory.graph.operations import Fields
from fanin.theory.graph.propagate import Step, TensorMoments, propagate
from fanin.theory.graph.rules import add_node
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import LayerMoments
from fanin.theory.prediction import Prediction

WEIGHT_OPERATIONS = ("linear", "conv1d", "conv2d", "conv3d")
NORMALIZATIONS = ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm")
REPORTED = (*WEIGHT_OPERATIONS, *NORMALIZATIONS, "add", "sub", "mul", "cat")


@dataclass(frozen=True)
class GraphPlan:
    """The steps of a graph, and which of them are reported.

    Attributes
    ----------
    steps
        Operations in order.
    samples
        Samples that each field needs.
    joint
        True if all images share one field (batch normalization).
    graph
        The recorded graph, of one image unless they share a field.
    reported
        Step of each reported node: weight layers, sums, products and normalizations.
    names
        Names of the reported nodes, each different.
    """

    steps: tuple[Step, ...]
    samples: int
    joint: bool
    graph: Graph
    reported: Mapping[Node, int]
    names: tuple[str, ...]


def plan_graph(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel *position"],
    sampling: Sampling,
) -> GraphPlan:
    """Record a model's graph and find the rules of its operations.

    Raises
    ------
    GraphError
        The graph cannot be recorded.
    UnpredictableLayer
        Theory has no rule for an operation.
    """
    graph = record(model, images)
    joint = _couples_images(graph)
    if not joint and len(images) > 1:
        graph = record(model, images[:1])
    builder = Builder(graph, model, moments, images if joint else images[:1])
    for node in graph.nodes:
        add_node(builder, node)
    output = graph.output
    if not isinstance(output, Node):
        several = ", ".join(graph.outputs)
        raise UnpredictableLayer("", f"it has several outputs ({several}), which is not supported")
    last = builder.step_of(output)
    steps = builder.steps[: last + 1]
    largest = max(builder.n_images * layout.n_positions for layout in builder.layouts)
    samples = max(sampling.samples, samples_for(largest))
    samples += (2 - samples) % 4  # even, and no multiple of usual numbers of channels
    reported = {
        node: step
        for node, step in builder.numbers.items()
        if step <= last and node.depends_on_images and node.operation in REPORTED
    }
    names = _distinct([step_name(node) for node in reported])
    return GraphPlan(tuple(steps), samples, joint, graph, reported, names)


def predict_graph(
    model: nn.Module,
    moments: Mapping[str, LayerMoments],
    images: Float[Tensor, "image channel *position"],
    *,
    sampling: Sampling | None = None,
) -> Prediction:
    """Predict the moments at every weight layer, sum, product and normalization of a module.

    Parameters
    ----------
    model
        Any module whose random weights are in linear and convolution layers, each used once.
    moments
        Moments of each weight layer, by module path. The means of the weights must be 0.
    images
        Network inputs, already scaled.
    sampling
        Options of the sampling, which is used where no closed form exists.

    Returns
    -------
    Prediction
        Theory `field`: preact_m2 and preact_mean (of the tensor, whatever the operation),
        preact_var (variance over the channels and positions of one image), vjp_m2, and
        weight_vjp_m2 (NaN where there is no weight layer). Vector-Jacobian products start from a
        random cotangent of mean square 1 at the output.

    Raises
    ------
    GraphError
        The graph of the model cannot be recorded.
    UnpredictableLayer
        Theory has no rule for an operation. The message names the layer and the user's line.
    FieldTooLarge
        A tensor has too many positions on the images that share a field.
    """
    sampling = sampling or Sampling()
    plan = plan_graph(model, moments, images, sampling)
    repeats: list[Quantities] = []
    is_random = True
    while is_random and len(repeats) < sampling.repeats and not is_precise(repeats):
        fields = run_plan(plan, images, sampling.seed, len(repeats), summarize=True)
        repeats.append(_quantities(plan, fields))
        is_random = any(tensor.is_sampled for tensors in fields for tensor in tensors)
    return Prediction(
        "field",
        "sampled" if is_random else "exact",
        plan.names,
        {q: np.stack([repeat[q] for repeat in repeats]) for q in repeats[0]},
    )


def run_plan(
    plan: GraphPlan,
    images: Float[Tensor, "image channel *position"],
    seed: int,
    repeat: int,
    *,
    summarize: bool = False,
) -> list[list[TensorMoments]]:
    """Compute the distributions of all tensors: one list per field.

    There is one field per image, or a single one if batch normalization couples the images. With
    `summarize`, only the second moments and means of the reported tensors remain.
    """
    parts = [images] if plan.joint else images.split(1)
    needed = set(plan.reported.values()) if summarize else None
    with torch.no_grad():
        return [
            propagate(plan.steps, x, Fields(plan.samples, (seed, repeat)), needed) for x in parts
        ]


def _quantities(plan: GraphPlan, fields: list[list[TensorMoments]]) -> Quantities:
    columns = [
        _tensor_quantities([tensors[step] for tensors in fields]) for step in plan.reported.values()
    ]
    return {q: np.stack([column[q].numpy() for column in columns], -1) for q in columns[0]}


def _tensor_quantities(fields: list[TensorMoments]) -> dict[str, Tensor]:
    def per_image(values: list[Tensor]) -> Tensor:
        return torch.cat(
            [
                x.unflatten(0, (field.value.shape[0], -1)).mean(1)
                for x, field in zip(values, fields, strict=True)
            ]
        )

    m2 = per_image([field.value.m2 for field in fields])
    mean = per_image([field.value.mean for field in fields])
    unknown = torch.full_like(m2, torch.nan)
    gradients = [field.weight_gradient_m2 for field in fields]
    cotangents = [field.cotangent for field in fields]
    return {
        "preact_m2": m2,
        "preact_mean": mean,
        "preact_var": (m2 - mean.square()).clamp(min=0),
        "vjp_m2": unknown
        if any(g is None for g in cotangents)
        else per_image([g.m2 for g in cotangents if g is not None]),
        "weight_vjp_m2": unknown
        if any(g is None for g in gradients)
        else torch.cat([g for g in gradients if g is not None]),
    }


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Add numbers to names that occur several times, such as two sums in one module.

    Examples
    --------
    >>> _distinct(["conv", "add", "add"])
    ('conv', 'add', 'add_2')
    """
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(result)


def _couples_images(graph: Graph) -> bool:
    return any(
        (node.operation == "batch_norm" and node.arguments["training"])
        or node.operation == "mean_only"
        for node in graph.nodes
    )
