"""Figure of the README: signal and gradient in a ResNet-20, predicted and measured.

python -m analysis.figures.residual_network
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from analysis.cli import figure_folder, plain_console
from analysis.figures.six_layer_cnn import AFTER, BEFORE, digits
from analysis.figures.style import PALETTE, use_style
from fanin import certify, prescribe
from fanin.models import ResNet
from fanin.theory.certificate import Certificate

NAME = "residual_network"
DRAWS = 20
SIZE = (6.6, 2.5)  # inches
PANELS = (
    ("preact_m2", r"rms of $y_l$ (dimensionless)", r"forward: signal $y_l$"),
    ("vjp_m2", r"rms of $d_l$ (dimensionless)", r"backward: gradient $d_l$"),
)
STYLES: dict[str, dict[str, Any]] = {
    BEFORE: {"color": PALETTE[3], "linestyle": (0, (4, 2)), "marker": "s"},
    AFTER: {"color": "black", "linestyle": "-", "marker": "o"},
}


def resnet(depth: int = 20) -> nn.Module:
    """Build the ResNet of He et al. (2016) for 8x8 digits, without normalization."""
    return ResNet(depth, norm="none").build((1, 8, 8), 10, nn.ReLU)


def measure(depth: int = 20, draws: int = DRAWS) -> pd.DataFrame:
    """Return predicted and measured moments of the weight layers, with each init, of one image."""
    net, image = resnet(depth), digits()[0][:1]
    options: dict[str, Any] = {"theories": ("field",), "measure": draws, "quiet": True}
    init = prescribe(net, image, quiet=True).init
    tables = [
        _table(name, certify(net, image, init=scheme, **options))
        for name, scheme in ((BEFORE, "pytorch_default"), (AFTER, init))
    ]
    return pd.concat(tables, ignore_index=True)


def _table(name: str, certificate: Certificate) -> pd.DataFrame:
    rows = []
    layers = [layer for layer in certificate.layers if layer.fan_in]
    for number, layer in enumerate(layers, start=1):
        for quantity, _, _ in PANELS:
            mean, se = layer.measured[quantity]
            predicted = layer.predicted[quantity].value
            values = {"predicted": predicted, "measured": mean, "se": se}
            rows.append({"init": name, "layer": number, "quantity": quantity, **values})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """Draw the root of the moments by layer: predictions as lines, measurements as points."""
    figure = Figure(figsize=SIZE, layout="constrained")
    for axis, (quantity, label, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for name in STYLES:
            _lines(axis, table[(table.init == name) & (table.quantity == quantity)], name)
        axis.set(yscale="log", xlabel=r"layer $l$", ylabel=label)
        axis.set_title(title, loc="left", fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _lines(axis: Axes, rows: pd.DataFrame, name: str) -> None:
    style = dict(STYLES[name])
    marker = style.pop("marker")
    axis.plot(rows.layer, np.sqrt(rows.predicted), label=name, **style)
    rms = np.sqrt(rows.measured)
    axis.errorbar(
        *(rows.layer, rms),
        yerr=2 * rows.se / (2 * rms),  # of a root: half the relative error
        color=style["color"],
        marker=marker,
        markersize=3.5,
        markerfacecolor="white",
        linestyle="",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Predict and draw the networks, save the figure and print the numbers of its caption."""
    folder = figure_folder(NAME, __doc__.splitlines()[0], argv)
    table = measure()
    use_style()
    path = folder / f"{NAME}.png"
    draw(table).savefig(path, dpi=200)
    ratio = np.sqrt(table.measured / table.predicted)
    console = plain_console()
    console.print(
        f"Measured / predicted rms, {DRAWS} draws: {ratio.min():.2f} to {ratio.max():.2f}"
    )
    console.print(f"Figure: {path}")


if __name__ == "__main__":
    main()
