"""The sweep's cells with their outcomes, and one filter, ReLU and one logit in closed form."""

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
from experiments.sweep.store.plan_file import read_plan
from experiments.training.loader import BatchOrder
from fanin.errors import FaninError
from fanin.inits import WeightShape

Part = Literal["report", "remedies", "long", "boundary", "descent", "curvature"]
LONG_RUN = 1000  # steps, and more
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
    """Every cell of the sweep.

    Attributes
    ----------
    results
        The sweep's tables.
    cells
        By cell id: columns of the `cells` table, and `part`, `inputs` (in words), `remedy`,
        `factor` (of the convolution's gradient), `cross_step` (the first step after which the cross
        was cross_step), `dead_at_start`, `dead` and `dead_at_end` (whether all maps are black at
        the start, then, and in the end), `cross_dead_at_end` (the cross's map alone, in the end),
        `both_correct` (whether both images are classified in the end).
    """

    results: Results
    cells: pd.DataFrame
    _configs: Mapping[str, Mapping[str, Any]]
    _theories: dict[str, SingleFilterTheory] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Results) -> SweepCells:
        """Read a sweep.

        Raises
        ------
        FaninError
            Some part of it was not run yet.
        """
        if results.cells.empty or results.layers.empty:
            raise FaninError(f"{results.folder.root}: no network was trained yet")
        configs = {name: line["config"] for name, line in read_plan(results.folder).items()}
        cells = results.cells.set_index("cell_id")
        done = cells[cells["outcome"].isin(["ok", "diverged"])]
        cells = _cell_table(done, results.layers, configs)
        for part in get_args(Part):
            if not (cells["part"] == part).any():
                raise FaninError(f"{results.folder.root}: none of its cells of {part} is done yet")
        return cls(results, cells, configs)

    def part(self, part: Part) -> pd.DataFrame:
        """The cells of one of the sweep's grids."""
        return self.cells[self.cells["part"] == part]

    def cell(self, cell_id: str) -> Cell:
        """A cell's objects."""
        return build_cell(self._configs[cell_id])

    def labels(self, cell_id: str) -> Tensor:
        """The labels of the two images."""
        return prepared(self.cell(cell_id), CPU)[0].train.y

    def theory(self, cell_id: str) -> SingleFilterTheory:
        """Predict a cell's network before it is drawn."""
        if cell_id not in self._theories:
            cell = self.cell(cell_id)
            images = probe_images(cell, *prepared(cell, CPU))
            layer = cell.init.for_layer("conv1")
            shape = WeightShape(1, images.shape[1], (KERNEL, KERNEL))
            weight, bias = layer.weight_moments(shape), layer.bias_moments(shape)
            if weight is None or bias is None:
                raise FaninError(f"{cell_id}: the moments of its weights are not known")
            numbers = float(weight.mean), float(weight.var), float(bias.mean)
            self._theories[cell_id] = SingleFilterTheory(patches_of(images, KERNEL), *numbers)
        return self._theories[cell_id]

    def killing_rate(self, cell_id: str) -> float:
        """The learning rate predicted to kill in the first step on the cross."""
        cell, theory, labels = self.cell(cell_id), self.theory(cell_id), self.labels(cell_id)
        if cell.train.batch_size == len(labels):
            logit_gradients = theory.logit_gradients(labels.double())
        else:  # alone, and the network is sure that it is a circle
            logit_gradients = (labels == CROSS).double()
        factor = cell.clip.factors.get("conv1", 1.0)
        return theory.killing_rate(logit_gradients, cell.clip.bias) / factor

    def max_curvature(self, cell_id: str) -> float:
        """Largest curvature that logistic regression can have on the two images: at p = 1/2."""
        cell = self.cell(cell_id)
        images = probe_images(cell, *prepared(cell, CPU)).double().flatten(1)
        return float(torch.linalg.eigvalsh(images @ images.T)[-1]) / (4 * len(images))

    def values(self, cell_id: str, layer: str, quantity: str, step: int, image: int) -> Tensor:
        """A tensor that the sweep has kept, in its shape.

        Raises
        ------
        FaninError
            It was not kept.
        """
        of = {"cell_id": cell_id, "layer_name": layer, "quantity": quantity, "step": step}
        mine = select(self.results.tensors, **of, image=image).sort_values("index")
        if mine.empty:
            raise FaninError(f"{cell_id}: {layer} {quantity} at step {step} was not kept")
        shape = [int(side) for side in str(mine["shape"].iloc[0]).split("x")]
        return torch.tensor(mine["value"].to_numpy()).view(shape)

    def curvatures(self, cells: pd.DataFrame) -> pd.DataFrame:
        """By cell and draw, at the start: largest eigenvalue of `filter` and of `linear`."""
        layers = select(self.results.layers, quantity="sharpness", step=0)
        mine = layers[layers["cell_id"].isin(cells.index) & (layers["layer"] > 0)]
        table = mine.pivot_table(
            index=["cell_id", "draw"], columns="layer", values="value", observed=True
        )
        return table.rename(columns={1: "filter", 2: "linear"})


def _cell_table(
    cells: pd.DataFrame, layers: pd.DataFrame, configs: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    dead = _at_steps(layers, "dead_fraction", "conv1", -1)
    of_image = {image: _at_steps(layers, "dead_fraction", "conv1", image) for image in (0, 1)}
    logits = {image: _at_steps(layers, "preact_mean", "fc1", image) for image in (0, 1)}
    rows = []
    for cell_id, row in cells.iterrows():
        labels, first = _labels_and_first(build_cell(configs[str(cell_id)]))
        factor = row.get("clip.factors.conv1")
        factor = 1.0 if factor is None or pd.isna(factor) else float(factor)
        named = (float(row["init.a"]), str(row["activation"]), factor, str(row["model"]))
        cross_step = 1 if CROSS in labels[first].tolist() else 2
        last = int(row["train.steps"])
        signs = [_value(logits[image], cell_id, last) > 0 for image in (0, 1)]
        rows.append(
            {
                "part": _part(row),
                "inputs": f"inputs {INPUTS.get(str(row['scaling']), row['scaling'])}",
                "remedy": REMEDIES.get(named, "other"),
                "factor": factor,
                "cross_step": cross_step,
                "dead_at_start": _value(dead, cell_id, 0) == 1,
                "dead": _value(dead, cell_id, cross_step) == 1,
                "dead_at_end": _value(dead, cell_id, last) == 1,
                "cross_dead_at_end": _value(of_image[labels.tolist().index(CROSS)], cell_id, last) == 1,
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


def _labels_and_first(cell: Cell) -> tuple[Tensor, Tensor]:
    """The labels of the images, and which of them the first step is fed."""
    labels = prepared(cell, CPU)[0].train.y
    size = cell.train.batch_of(len(labels))
    return labels, BatchOrder(len(labels), size, cell.seed_data).at(0)


def _at_steps(layers: pd.DataFrame, quantity: str, layer: str, image: int) -> pd.Series:
    """The network that trains, by cell and step."""
    mine = select(layers, quantity=quantity, layer_name=layer, image=image, draw=0)
    keys = [mine["cell_id"].astype(str), mine["step"].astype(int)]
    return pd.Series(mine["value"].to_numpy(), index=pd.MultiIndex.from_arrays(keys))


def _value(series: pd.Series, cell_id: Any, step: int) -> float:
    return float(series.get((str(cell_id), step), float("nan")))


@dataclass(frozen=True)
class SingleFilterTheory:
    """A convolution of one channel under a linear layer of one output, both drawn alike.

    While every pre-activation is positive the ReLU does nothing, and the logit is bilinear,
    z = sum over q of v_q (w . x_q + b) + c, with x_q the patch at position q. Weights w and v are
    independent, each of one mean and variance; all numbers are expectations over their draws.

    Parameters
    ----------
    patches
        What the filter sees at each position, zero padding included: `patches_of(images)`.
    mean, var
        Of every weight.
    bias
        Mean of every bias.
    """

    patches: Float[Tensor, "image position tap"]
    mean: float
    var: float
    bias: float = 0.0

    @property
    def feature_map(self) -> Float[Tensor, "image position"]:
        """The expected feature map."""
        return self.mean * self.patches.sum(-1) + self.bias

    @property
    def logits(self) -> Float[Tensor, " image"]:
        """The expected logits."""
        return self.mean * self.feature_map.sum(-1) + self.bias

    def killing_rate(self, logit_gradients: Float[Tensor, " image"], bias: BiasGradient) -> float:
        """Smallest learning rate at which one step leaves every feature map black.

        Parameters
        ----------
        logit_gradients
            The loss's derivative with respect to each image's logit: p - y of an image fed alone,
            (p - y) / n of n fed together, 0 of one that is not fed.
        bias
            Which gradient the filter's bias gets.

        Returns
        -------
        float
            Infinite where the step makes some map brighter.
        """
        filter_gradient = self.mean * torch.einsum("i,iqk->k", logit_gradients, self.patches)
        if bias == "own":
            bias_gradient = self.mean * self.patches.shape[1] * logit_gradients.sum()
        elif bias == "mean_of_weights":
            bias_gradient = filter_gradient.mean()
        else:
            bias_gradient = torch.zeros(()).double()
        taken_off = self.patches @ filter_gradient + bias_gradient
        if (taken_off <= 0).any():
            return float("inf")
        return float((self.feature_map / taken_off).max())

    def logit_gradients(self, labels: Float[Tensor, " image"]) -> Float[Tensor, " image"]:
        """(p - y) / n of the logistic loss with all images fed together, at the expected logits."""
        return (self.logits.sigmoid() - labels) / len(labels)

    def curvature(self, layer: Layer) -> float:
        """Largest eigenvalue of a layer's block of the Hessian of the mean logistic loss.

        The block is p (1 - p) times the outer product of the logit's derivative with itself,
        averaged over the images; exact, for the logit is linear in each layer's weight. p is taken
        at the expected logit.
        """
        p = self.logits.sigmoid()
        root = (p * (1 - p) / len(p)).sqrt()
        gram = self.derivative_gram(layer)
        return float(torch.linalg.eigvalsh(root[:, None] * gram * root)[-1])

    def derivative_gram(self, layer: Layer) -> Float[Tensor, "image image"]:
        """Expected inner products of the derivatives of the images' logits."""
        x = self.patches
        # Both derivatives are sums of products of a weight and a pixel: a mean, and a scatter.
        scatter = self.var * torch.einsum("iqk,jqk->ij", x, x)
        if layer == "filter":
            expected = self.mean * x.sum(1)
            return expected @ expected.T + scatter
        return self.feature_map @ self.feature_map.T + scatter

    def curvature_ratio(self) -> float:
        """The filter's curvature over the linear layer's, for one image.

        About (number of positions) / (taps of the filter) where the mean of the weights rules, and
        1 where it is 0: there only the scatter is left, which is the same of both.
        """
        filters, linear = (self.derivative_gram(layer) for layer in ("filter", "linear"))
        return float((filters.diagonal() / linear.diagonal()).mean())


def patches_of(
    images: Float[Tensor, "image channel height width"], kernel_size: int
) -> Float[Tensor, "image position tap"]:
    """Return what a filter of that size sees at each position, zeros around the image; float64.

    >>> patches_of(torch.ones(1, 3, 8, 8), 3).shape
    torch.Size([1, 64, 27])
    """
    return unfold(images.double(), kernel_size, padding=kernel_size // 2).transpose(1, 2)
