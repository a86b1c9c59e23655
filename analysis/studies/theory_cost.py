"""What the field costs beside simulating networks: `python -m analysis.studies.theory_cost`.

Both estimate each layer's second moment on one image. The field states its standard error; that
many draws are counted as give the mean over draws the same one, at the time that a draw took.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from experiments.data.shapes import Shapes
from fanin.inits import HeNormal, Init, LecunNormal, Uniform, initialize
from fanin.models.alexnet import AlexNet
from fanin.models.simple import Plain
from fanin.probes.measure import measure
from fanin.probes.moments import random_cotangent
from fanin.seeds import generator
from fanin.theory.field import predict_field
from fanin.theory.moments import declared_moments


@dataclass(frozen=True)
class Cost:
    """Seconds at equal standard error, on one image.

    Attributes
    ----------
    standard_error
        The field's own, relative, of the last layer's second moment; 0 where it samples nothing.
    theory, draw
        Seconds of one prediction, forward and backward; and of one measured draw.
    draws
        Draws whose mean has that standard error.
    """

    network: str
    standard_error: float
    theory: float
    draw: float
    draws: float

    @property
    def ratio(self) -> float:
        """How many times cheaper the field is."""
        return self.draws * self.draw / self.theory


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Init]]] = {
    "alexnet relu, He": lambda: (_alexnet(nn.ReLU), Init(HeNormal())),
    "alexnet tanh, LeCun": lambda: (_alexnet(nn.Tanh), Init(LecunNormal())),
    "alexnet gelu, He": lambda: (_alexnet(nn.GELU), Init(HeNormal())),
    "alexnet relu, U(-0.02, 0.05)": lambda: (_alexnet(nn.ReLU), Init(Uniform(-0.02, 0.05))),
    "plain 10 relu, He": lambda: (
        Plain(depth=10, width=64).build((3, 32, 32), 10, nn.ReLU),
        Init(HeNormal()),
    ),
}


def cost(network: str, draws: int = 64) -> Cost:
    """Time both on one image of shapes, 3 x 32 x 32."""
    model, init = NETWORKS[network]()
    model = model.eval()
    images = _image()
    spreads, seconds = [], []
    for draw in range(draws):
        initialize(model, init, partial(generator, "cost", draw))
        began = time.perf_counter()
        measured = measure(model, images, random_cotangent(1, 10, generator("cost", draw)))
        seconds.append(time.perf_counter() - began)
        spreads.append(_last(measured.layers))
    model = model.double()
    began = time.perf_counter()
    frame = predict_field(model, declared_moments(model, init), images.double()).to_frame()
    theory = time.perf_counter() - began
    mine = frame[(frame.quantity == "preact_m2") & (frame.image == 0)].iloc[-1]
    error = float(mine.sampling_se / mine.value)
    scatter = float(np.std(spreads, ddof=1) / np.mean(spreads))
    needed = (scatter / error) ** 2 if error > 0 else float("inf")
    return Cost(network, error, theory, float(np.median(seconds)), needed)


def _image() -> Tensor:
    data = Shapes().load(Path(), download=False, seed=0)
    return data.train.x[:1].float() / data.full_scale


def _alexnet(activation: type[nn.Module]) -> nn.Sequential:
    return AlexNet().build((3, 32, 32), 10, activation)


def _last(columns: dict) -> float:
    rows = zip(columns["quantity"], columns["image"], columns["value"], strict=True)
    return [value for quantity, image, value in rows if (quantity, image) == ("preact_m2", -1)][-1]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=64, help="networks timed (%(default)s)")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    table = Table("network", "field's se", "field, s", "a draw, s", "draws", "cheaper by")
    for network in NETWORKS:
        found = cost(network, asked.draws)
        table.add_row(
            network,
            f"{found.standard_error:.2%}",
            f"{found.theory:.2f}",
            f"{found.draw:.3f}",
            f"{found.draws:,.0f}",
            f"{found.ratio:,.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
