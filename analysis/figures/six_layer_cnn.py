"""Figure of the README: a six-layer CNN with torch's default init and with `prescribe`.

python -m analysis.figures.six_layer_cnn
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from analysis.cli import figure_folder, plain_console
from analysis.figures.style import PALETTE, use_style
from fanin import prescribe

NAME = "six_layer_cnn"
CHANNELS = 16
BATCH = 64
N_TRAIN = 1400
SEEDS = range(5)
STEPS = 150
TEST_EVERY = 10  # steps
LEARNING_RATES = (0.03, 0.1, 0.3, 1.0)
SIZE = (6.6, 2.5)  # inches
BEFORE, AFTER = "torch's default", "prescribe"
STYLES: dict[str, dict[str, Any]] = {
    BEFORE: {"color": PALETTE[3], "linestyle": (0, (4, 2)), "marker": "s", "markersize": 3.5},
    AFTER: {"color": "black", "linestyle": "-", "marker": "o", "markersize": 3.5},
}


def six_layer_cnn() -> nn.Sequential:
    """Build five 3x3 convolutions with ReLU and a linear layer, with torch's default init."""
    channels = [1, *[CHANNELS] * 5]
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(channels):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS * 64, 10))


def digits() -> tuple[Float[Tensor, "image 1 8 8"], Int64[Tensor, " image"]]:
    """Return scikit-learn's digits with pixels from 0 to 1, and their labels."""
    from sklearn.datasets import load_digits  # a GPU machine may import this module without it

    table = load_digits()
    images = torch.tensor(table.images[:, None] / 16.0, dtype=torch.float32)
    return images, torch.tensor(table.target)


def initializers() -> dict[str, Callable[[nn.Module], None]]:
    """Return a function for each init that initializes a new network."""
    namespace: dict[str, Any] = {}
    exec(prescribe(six_layer_cnn(), digits()[0][:8]).torch_code, namespace)
    return {BEFORE: lambda net: None, AFTER: namespace["init_weights"]}


@torch.no_grad()
def signals(net: nn.Sequential, images: Tensor) -> list[float]:
    """Return the rms of the outputs of each convolution and linear layer."""
    rms = []
    for module in net:
        images = module(images)
        if isinstance(module, nn.Conv2d | nn.Linear):
            rms.append(float(images.square().mean().sqrt()))
    return rms


def train(
    net: nn.Sequential, learning_rate: float, seed: int, steps: int = STEPS
) -> tuple[list[float], float]:
    """Train with SGD; return test accuracies and the mean loss of the last steps, inf for NaN."""
    images, labels = digits()
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    accuracies, losses = [], []
    for step in range(steps + 1):
        if step % TEST_EVERY == 0:
            with torch.no_grad():
                correct = net(images[N_TRAIN:]).argmax(1) == labels[N_TRAIN:]
            accuracies.append(float(correct.double().mean()))
        batch = torch.randint(N_TRAIN, (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return accuracies, float(torch.tensor(losses[-20:]).nan_to_num(float("inf")).mean())


def measure(
    seeds: Sequence[int] = SEEDS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    steps: int = STEPS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the signals by layer, and the test accuracies by learning rate and step."""
    layers: list[dict[str, object]] = []
    curves: list[dict[str, object]] = []
    for name, initialize in initializers().items():
        for seed in seeds:
            for rate in learning_rates:
                torch.manual_seed(seed)
                net = six_layer_cnn()
                initialize(net)
                if rate == learning_rates[0]:
                    rms = signals(net, digits()[0][:N_TRAIN])
                    layers += [
                        {"init": name, "seed": seed, "layer": layer, "rms": value}
                        for layer, value in enumerate(rms, start=1)
                    ]
                accuracies, loss = train(net, rate, seed, steps)
                row = {"init": name, "seed": seed, "lr": rate, "loss": loss}
                curves += [
                    {**row, "step": n * TEST_EVERY, "accuracy": value}
                    for n, value in enumerate(accuracies)
                ]
    return pd.DataFrame(layers), pd.DataFrame(curves)


def best_learning_rates(curves: pd.DataFrame) -> dict[str, float]:
    """Return for each init the learning rate with the lowest mean training loss at the end."""
    losses = curves.groupby(["init", "lr"]).loss.mean()
    return {name: losses[name].idxmin() for name in STYLES}


def final_accuracies(curves: pd.DataFrame) -> pd.DataFrame:
    """Return for each init its best learning rate, and mean and standard error of the accuracy."""
    last = curves[curves.step == curves.step.max()].groupby(["init", "lr"]).accuracy
    rows = [(name, rate) for name, rate in best_learning_rates(curves).items()]
    return last.agg(mean="mean", se="sem").loc[rows].reset_index().set_index("init")


def draw(layers: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw the signal by layer and the test accuracy by step: mean, smallest and largest seed."""
    figure = Figure(figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    rates = best_learning_rates(curves)
    for name in STYLES:
        _line(left, layers[layers.init == name], "layer", "rms", name)
        shown = curves[(curves.init == name) & (curves.lr == rates[name])]
        _line(right, shown, "step", "accuracy", name)
    left.set(yscale="log", xlabel=r"layer $l$", ylabel=r"signal: rms of $y_l$ (dimensionless)")
    left.set_title("before training", loc="left", fontsize="medium")
    right.set(ylim=(0, 1), xlabel="training step $t$", ylabel="test accuracy (fraction)")
    right.set_title("training", loc="left", fontsize="medium")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _line(axis: Axes, table: pd.DataFrame, x: str, y: str, name: str) -> None:
    values = table.groupby(x)[y]
    axis.plot(values.mean(), label=name, **STYLES[name])
    color = STYLES[name]["color"]
    axis.fill_between(values.mean().index, values.min(), values.max(), color=color, alpha=0.2, lw=0)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the networks, save the figure and print the numbers of its caption."""
    folder = figure_folder(NAME, __doc__.splitlines()[0], argv)
    layers, curves = measure()
    use_style()
    path = folder / f"{NAME}.png"
    draw(layers, curves).savefig(path, dpi=200)
    console = plain_console()
    console.print(f"Test accuracy after {STEPS} steps, {len(SEEDS)} seeds (se: standard error):")
    console.print(final_accuracies(curves).round(3).to_string())
    console.print(f"Figure: {path}")


if __name__ == "__main__":
    main()
