"""Cells of the sweep `dying_relu`, and the closed-form theory of one filter, ReLU and one logit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import unfold

from analysis.figures.query import select
from analysis.load import Results
from experiments.clip import BiasGradient
from experiments.inputs import prepared, probe_images
from experiments.schema import Cell, build_cell
from experiments.training.loader import BatchOrder
from fanin.errors import FaninError
from fanin.inits import WeightShape

Part = Literal["report", "remedies", "long", "boundary", "descent", "curvature"]
LONG_RUN = 1000  # smallest number of steps of the part "long"
CIRCLE, CROSS = 1, 0  # labels
INPUTS = {"raw": "0 to 255", "unit": "0 to 1"}  # range of the inputs, by scaling
KERNEL = 3
CPU = torch.device("cpu")
REMEDIES = {  # (smallest weight, activation, factor of the convolution's gradient, model)
    (0.0, "relu", 1.0, "two_layer"): "none",
    (-0.1, "relu", 1.0, "two_layer"): "U(-0.1, 0.1)",
    (0.0, "tanh", 1.0, "two_layer"): "tanh",
    (0.0, "relu", 1e-3, "two_layer"): "conv gradient x 1e-3",
    (0.0, "relu", 1e-6, "two_layer"): "conv gradient x 1e-6",
    (0.0, "relu", 1.0, "linear"): "linear layer alone",
}
Layer = Literal["filter", "linear"]


@dataclass(frozen=True)
class SweepCells:
    """All finished cells of the sweep, with their predictions.

    A feature map is dead (black) if it is 0 at every position.

    Attributes
    ----------
    results
        The sweep's tables.
    table
        Indexed by cell id. Columns of the `cells` table, and: `part` (the sweep's grid); `inputs`
        (range of the inputs); `remedy`; `factor` (of the convolution's gradient); `cross_step`
        (number of steps until the cross was in a batch, that step included); `dead_at_start`,
        `dead`, `dead_at_end` (True if the maps of both images are dead before training, at
        `cross_step`, at the end); `cross_dead_at_end` (the same for the map of the cross);
        `both_correct` (True if both images are classified correctly at the end).
    """

    results: Results
    table: pd.DataFrame
    _configs: Mapping[str, Mapping[str, Any]]
    _theories: dict[str, SingleFilterTheory] = field(default_factory=dict)

    @classmethod
    def load(cls, results: Results) -> SweepCells:
        """Read a sweep.

        Raises
        ------
        FaninError
            A part of the sweep has no finished cell.
        """
        if results.cells.empty or results.layers.empty:
            raise FaninError(
                f"{results.folder.root}: no network has been trained yet; run the sweep"
            )
        configs = {name: record["config"] for name, record in results.plan.items()}
        cells = results.cells.set_index("cell_id")
        finished = cells[cells["outcome"].isin(["ok", "diverged"])]
        table = _cell_table(finished, results.layers, configs)
        for part in get_args(Part):
            if not (table["part"] == part).any():
                raise FaninError(
                    f"{results.folder.root}: no cell of the part '{part}' has finished; run the "
                    "rest of the sweep"
                )
        return cls(results, table, configs)

    def part(self, part: Part) -> pd.DataFrame:
        """Return the cells of one of the sweep's grids."""
        return self.table[self.table["part"] == part]

    def cell(self, cell_id: str) -> Cell:
        """Instantiate a cell's config."""
        return build_cell(self._configs[cell_id])

    def labels(self, cell_id: str) -> Tensor:
        """Return the labels of the two images."""
        return prepared(self.cell(cell_id), CPU)[0].train.y

    def theory(self, cell_id: str) -> SingleFilterTheory:
        """Return the theory of a cell's network, from its init and images."""
        if cell_id not in self._theories:
            cell = self.cell(cell_id)
            images = probe_images(cell, *prepared(cell, CPU))
            layer = cell.init.for_layer("conv1")
            shape = WeightShape(1, images.shape[1], (KERNEL, KERNEL))
            weight, bias = layer.weight_moments(shape), layer.bias_moments(shape)
            if weight is None or bias is None:
                raise FaninError(f"{cell_id}: the weight moments of its init are not known")
            moments = float(weight.mean), float(weight.var), float(bias.mean)
            self._theories[cell_id] = SingleFilterTheory(patches_of(images, KERNEL), *moments)
        return self._theories[cell_id]

    def killing_rate(self, cell_id: str) -> float:
        """Predict the smallest learning rate at which the first step on the cross makes maps black.

        A map is black if it is 0 at every position.
        """
        cell, theory, labels = self.cell(cell_id), self.theory(cell_id), self.labels(cell_id)
        if cell.train.batch_size == len(labels):
            logit_gradients = theory.logit_gradients(labels.double())
        else:  # one image per step, and p of the cross rounds to 1
            logit_gradients = (labels == CROSS).double()
        factor = cell.clip.factors.get("conv1", 1.0)
        return theory.killing_rate(logit_gradients, cell.clip.bias) / factor

    def max_curvature(self, cell_id: str) -> float:
        """Return the curvature of logistic regression on the two images where it is largest.

        That is at predicted probabilities of 1/2.
        """
        cell = self.cell(cell_id)
        images = probe_images(cell, *prepared(cell, CPU)).double().flatten(1)
        return float(torch.linalg.eigvalsh(images @ images.T)[-1]) / (4 * len(images))

    def tensor(self, cell_id: str, layer: str, quantity: str, step: int, image: int) -> Tensor:
        """Return a probed tensor in its original shape.

        Raises
        ------
        FaninError
            The sweep did not save the tensor.
        """
        keys = {"cell_id": cell_id, "layer_name": layer, "quantity": quantity, "step": step}
        rows = select(self.results.tensors, **keys, image=image).sort_values("index")
        if rows.empty:
            raise FaninError(
                f"{cell_id}: tensor {quantity} of layer {layer} at step {step} was not saved; add "
                f"{quantity} to probe.tensors and {step} to probe.steps"
            )
        shape = [int(side) for side in str(rows["shape"].iloc[0]).split("x")]
        return torch.tensor(rows["value"].to_numpy()).view(shape)

    def curvatures(self, cells: pd.DataFrame) -> pd.DataFrame:
        """Return the largest Hessian eigenvalue of each layer before training, by cell and draw."""
        layers = select(self.results.layers, quantity="sharpness", step=0)
        rows = layers[layers["cell_id"].isin(cells.index) & (layers["layer"] > 0)]
        by_layer = rows.pivot_table(
            index=["cell_id", "draw"], columns="layer", values="value", observed=True
        )
        return by_layer.rename(columns={1: "filter", 2: "linear"})


def _cell_table(
    cells: pd.DataFrame, layers: pd.DataFrame, configs: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    dead = _quantity_by_step(layers, "dead_fraction", "conv1", -1)
    dead_image = {
        image: _quantity_by_step(layers, "dead_fraction", "conv1", image) for image in (0, 1)
    }
    logits = {image: _quantity_by_step(layers, "preact_mean", "fc1", image) for image in (0, 1)}
    rows = []
    for cell_id, row in cells.iterrows():
        labels, first = _labels_and_first_batch(build_cell(configs[str(cell_id)]))
        factor = row.get("clip.factors.conv1")
        factor = 1.0 if factor is None or pd.isna(factor) else float(factor)
        key = (float(row["init.a"]), str(row["activation"]), factor, str(row["model"]))
        cross = labels.tolist().index(CROSS)
        cross_step = 1 if CROSS in labels[first].tolist() else 2
        last = int(row["train.steps"])
        signs = [_value(logits[image], cell_id, last) > 0 for image in (0, 1)]
        rows.append(
            {
                "part": _part(row),
                "inputs": f"inputs {INPUTS.get(str(row['scaling']), row['scaling'])}",
                "remedy": REMEDIES.get(key, "other"),
                "factor": factor,
                "cross_step": cross_step,
                "dead_at_start": _value(dead, cell_id, 0) == 1,
                "dead": _value(dead, cell_id, cross_step) == 1,
                "dead_at_end": _value(dead, cell_id, last) == 1,
                "cross_dead_at_end": _value(dead_image[cross], cell_id, last) == 1,
                "both_correct": signs == (labels == CIRCLE).tolist(),
            }
        )
    return cells.join(pd.DataFrame(rows, index=cells.index))


def _part(row: pd.Series) -> Part:
    if row["train.steps"] == 0:
        return "curvature"
    if row["train.batch_size"] == 2:
        return "descent"
    if "weight" in str(row["probe.tensors"]):
        return "report"
    if row["train.steps"] >= LONG_RUN:
        return "long"
    return "boundary" if row["train.steps"] == 2 else "remedies"


def _labels_and_first_batch(cell: Cell) -> tuple[Tensor, Tensor]:
    """Return the labels of all images and the indices of the first batch."""
    labels = prepared(cell, CPU)[0].train.y
    size = cell.train.batch_of(len(labels))
    return labels, BatchOrder(len(labels), size, cell.seed_data).at(0)


def _quantity_by_step(layers: pd.DataFrame, quantity: str, layer: str, image: int) -> pd.Series:
    """Return a quantity of the trained networks by cell and step."""
    rows = select(layers, quantity=quantity, layer_name=layer, image=image, draw=0)
    keys = [rows["cell_id"].astype(str), rows["step"].astype(int)]
    return pd.Series(rows["value"].to_numpy(), index=pd.MultiIndex.from_arrays(keys))


def _value(series: pd.Series, cell_id: Any, step: int) -> float:
    return float(series.get((str(cell_id), step), float("nan")))


@dataclass(frozen=True)
class SingleFilterTheory:
    """Theory of a one-channel convolution, ReLU and a linear layer with one output.

    If every pre-activation is positive, the ReLU is the identity and the logit is bilinear in the
    weights: z = sum over q of v_q (w . x_q + b) + c, with x_q the patch at position q. The weights
    w and v are independent, with the same mean and variance. All results are expectations over
    draws of the weights.

    Parameters
    ----------
    patches
        Input patch of the filter at each position, with zero padding: `patches_of(images)`.
    mean, var
        Mean and variance of each weight, in both layers.
    bias
        Mean of each bias.
    """

    patches: Float[Tensor, "image position tap"]
    mean: float
    var: float
    bias: float = 0.0

    @property
    def feature_map(self) -> Float[Tensor, "image position"]:
        """Expected feature map of each image."""
        return self.mean * self.patches.sum(-1) + self.bias

    @property
    def logits(self) -> Float[Tensor, " image"]:
        """Expected logit of each image."""
        return self.mean * self.feature_map.sum(-1) + self.bias

    def killing_rate(self, logit_gradients: Float[Tensor, " image"], bias: BiasGradient) -> float:
        """Return the smallest learning rate at which one step makes all feature maps black.

        Parameters
        ----------
        logit_gradients
            Derivative of the loss with respect to the logit of each image: (p - y) / n for an image
            in a batch of n, 0 for an image outside the batch.
        bias
            Gradient rule of the filter's bias.

        Returns
        -------
        float
            inf if the step increases a pre-activation.
        """
        filter_gradient = self.mean * torch.einsum("i,iqk->k", logit_gradients, self.patches)
        if bias == "own":
            bias_gradient = self.mean * self.patches.shape[1] * logit_gradients.sum()
        elif bias == "mean_of_weights":
            bias_gradient = filter_gradient.mean()
        else:
            bias_gradient = torch.zeros(()).double()
        decrease = self.patches @ filter_gradient + bias_gradient
        if (decrease <= 0).any():
            return float("inf")
        return float((self.feature_map / decrease).max())

    def logit_gradients(self, labels: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """Return the derivative of the mean logistic loss by each logit, at the expected logits."""
        return (self.logits.sigmoid() - labels) / len(labels)

    def curvature(self, layer: Layer) -> float:
        """Return the largest Hessian eigenvalue of the mean logistic loss, for one layer's weights.

        The Hessian is the mean over images of p (1 - p) times the outer product of the logit's
        derivative with itself. That is exact, because the logit is linear in the weights of each
        layer. p is evaluated at the expected logit.
        """
        p = self.logits.sigmoid()
        root = (p * (1 - p) / len(p)).sqrt()
        gram = self.derivative_gram(layer)
        return float(torch.linalg.eigvalsh(root[:, None] * gram * root)[-1])

    def derivative_gram(self, layer: Layer) -> Float[Tensor, "image image"]:
        """Return the expected inner product of the logits' derivatives for each pair of images."""
        x = self.patches
        # Both derivatives are sums of weight times pixel, with a mean part and a variance part.
        variance_part = self.var * torch.einsum("iqk,jqk->ij", x, x)
        if layer == "filter":
            expected = self.mean * x.sum(1)
            return expected @ expected.T + variance_part
        return self.feature_map @ self.feature_map.T + variance_part

    def curvature_ratio(self) -> float:
        """Return the curvature of the filter divided by that of the linear layer, mean over images.

        The ratio is about (number of positions) / (weights of the filter) if the mean of the
        weights dominates. It is 1 if that mean is 0, because the variance part is equal in both
        layers.
        """
        filters, linear = (self.derivative_gram(layer) for layer in ("filter", "linear"))
        return float((filters.diagonal() / linear.diagonal()).mean())


def patches_of(
    images: Float[Tensor, "image channel height width"], kernel_size: int
) -> Float[Tensor, "image position tap"]:
    """Return the zero-padded patch of each image at each position, in float64.

    >>> patches_of(torch.ones(1, 3, 8, 8), 3).shape
    torch.Size([1, 64, 27])
    """
    return unfold(images.double(), kernel_size, padding=kernel_size // 2).transpose(1, 2)
