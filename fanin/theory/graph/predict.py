"""Theory `field` on the graph of any module: residual blocks, concatenation, normalization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fanin.theory.field.sampling import Quantities, Sampling, is_precise
from fanin.theory.graph.operations import Fields
from fanin.theory.graph.plan import GraphPlan, plan_graph
from fanin.theory.graph.propagate import TensorMoments, propagate
from fanin.theory.moments import LayerMoments
from fanin.theory.prediction import Prediction


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
    return predict_plan(plan_graph(model, moments, images, sampling), images, sampling)


def predict_plan(
    plan: GraphPlan,
    images: Float[Tensor, "image channel *position"],
    sampling: Sampling,
    measured: Mapping[int, Tensor] | None = None,
) -> Prediction:
    """Predict the moments of a planned graph; see `predict_graph`.

    `measured` has the values of the plan's measured tensors in a drawn network.
    """
    repeats: list[Quantities] = []
    is_random = True
    while is_random and len(repeats) < sampling.repeats and not _is_precise(repeats):
        # map, not a loop: a loop variable would keep a field in memory while the next is computed.
        fields = run_plan(
            *(plan, images, sampling.seed, len(repeats)), summarize=True, measured=measured
        )
        parts = list(map(partial(_field_quantities, plan), fields))
        repeats.append({q: np.concatenate([part[q] for part, _ in parts]) for q in parts[0][0]})
        is_random = any(is_sampled for _, is_sampled in parts)
    return Prediction(
        "field",
        "sampled" if is_random else "exact",
        plan.names,
        {q: np.stack([repeat[q] for repeat in repeats]) for q in repeats[0]},
    )


def _is_precise(repeats: list[Quantities]) -> bool:
    """Return True if the repeats agree wherever a quantity is defined."""
    return is_precise(
        [{q: x[:, ~np.isnan(x).any(0)] for q, x in repeat.items()} for repeat in repeats]
    )


def run_plan(
    plan: GraphPlan,
    images: Float[Tensor, "image channel *position"],
    seed: int,
    repeat: int,
    *,
    summarize: bool = False,
    measured: Mapping[int, Tensor] | None = None,
) -> Iterator[list[TensorMoments]]:
    """Yield the distributions of all tensors: one list per field.

    There is one field per image, or a single one if batch normalization couples the images. With
    `summarize`, only the second moments and means of the reported tensors remain.
    """
    parts = [images] if plan.joint else images.split(1)
    needed = set(plan.reported.values()) if summarize else None
    for number, x in enumerate(parts):
        values = {
            node: value if plan.joint else value[number : number + 1]
            for node, value in (measured or {}).items()
        }
        yield propagate(plan.steps, x, Fields(plan.samples, (seed, repeat), values), needed)


def _field_quantities(plan: GraphPlan, tensors: list[TensorMoments]) -> tuple[Quantities, bool]:
    """Return the quantities of one field, and whether some of them come from samples."""
    columns = [_tensor_quantities(tensors[step]) for step in plan.reported.values()]
    quantities = {q: np.stack([column[q].numpy() for column in columns], -1) for q in columns[0]}
    return quantities, any(tensor.is_sampled for tensor in tensors)


def _tensor_quantities(tensor: TensorMoments) -> dict[str, Tensor]:
    def per_image(x: Tensor) -> Tensor:
        return x.unflatten(0, (tensor.value.shape[0], -1)).mean(1)

    m2, mean = per_image(tensor.value.m2), per_image(tensor.value.mean)
    unknown = torch.full_like(m2, torch.nan)
    gradient_m2 = tensor.weight_gradient_m2
    return {
        "preact_m2": m2,
        "preact_mean": mean,
        "preact_var": (m2 - mean.square()).clamp(min=0),
        "vjp_m2": unknown if tensor.cotangent is None else per_image(tensor.cotangent.m2),
        "weight_vjp_m2": unknown if gradient_m2 is None else gradient_m2,
    }
