"""Command that tests theory `finite_width` on random networks: coverage by method, width and more.

python -m analysis.studies.random_networks --networks 200 --write docs/appendix/random-networks.md
python -m analysis.studies.random_networks --family nonzero_mean --networks 30
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from analysis.studies.blocks import publish
from analysis.studies.tables import markdown_table
from experiments.console import exit_on_error
from experiments.data import Cifar10, Data, Mnist
from experiments.data.dataset import Source
from experiments.sweep.provenance import code_version
from fanin.inits import (
    HeNormal,
    HeUniform,
    Init,
    LecunNormal,
    LecunUniform,
    Orthogonal,
    PytorchDefault,
    Scheme,
    Uniform,
    XavierNormal,
)
from fanin.inits.scheme import GaussianScheme
from fanin.inits.weight_shape import Moments, WeightShape
from fanin.statistics.coverage import coverage, inside
from fanin.statistics.draw_distribution import SHAPE
from fanin.statistics.pit import probability_transform
from fanin.theory.certificate.measured import measure_draws
from fanin.theory.certificate.weights import WeightMoments
from fanin.theory.finite_width import predict_finite_width
from fanin.theory.moments import declared_moments

NAME = "random_networks"
ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU),
    *(nn.SiLU, nn.Softplus, nn.Tanh, nn.Hardtanh, nn.Sigmoid),
)
SCHEMES: tuple[Callable[[], Scheme], ...] = (
    *(HeNormal, HeUniform, XavierNormal, LecunNormal, LecunUniform, PytorchDefault, Orthogonal),
)
SMOOTH_OR_RELU: tuple[type[nn.Module], ...] = (nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid)
DATA: dict[str, Source] = {"mnist": Mnist(), "cifar10": Cifar10()}
N_IMAGES = 200  # training images to choose from
MIN_SPREAD = 1e-9  # smaller spreads of a log-moment are rounding errors
GROUPS = ("method", "width", "depth", "activation", "init", "readout")


@dataclass(frozen=True)
class ShiftedLecun(GaussianScheme):
    """Weights of variance 1 / fan_in whose mean is `ratio` times their standard deviation."""

    ratio: float

    def moments(self, weight: WeightShape) -> Moments:
        return Moments(mean=self.ratio * weight.fan_in**-0.5, var=1 / weight.fan_in)


NONZERO_MEAN: tuple[Scheme, ...] = (
    *(Uniform(0.0, 1.0), Uniform(-0.02, 0.05)),
    *(ShiftedLecun(0.1), ShiftedLecun(0.3), ShiftedLecun(1.0)),
)


@dataclass(frozen=True)
class RandomNetwork:
    """A random network with its init and the data of its image."""

    seed: int
    model: nn.Sequential
    scheme: Scheme
    data: str
    side: int
    width: int
    depth: int
    activation: str
    readout: str

    def image(self, root: str) -> Tensor:
        """Return one standardized training image, [1, channel, side, side]."""
        source = Data(DATA[self.data], root=root, n_train=N_IMAGES, n_test=10, side=self.side)
        image = source.load().train.x[self.seed % N_IMAGES][None].double()
        return (image - image.mean()) / image.std()


def random_network(seed: int) -> RandomNetwork:
    """Draw a network of 1 to 5 convolutions with pooling, activation, init and data."""
    rng = random.Random(seed)
    data, side = rng.choice(sorted(DATA)), rng.choice([14, 20, 28])
    activation, scheme = rng.choice(ACTIVATIONS), rng.choice(SCHEMES)
    width, depth = rng.choice([32, 48, 64]), rng.randint(1, 5)
    channels = 1 if data == "mnist" else 3
    modules: list[nn.Module] = []
    image_side = side
    for index in range(depth):
        kernel, dilation = rng.choice([1, 3, 3, 5]), rng.choice([1, 1, 1, 2])
        stride = rng.choice([1, 1, 1, 2]) if side > 6 else 1
        groups = rng.choice([1, 1, 1, 2]) if index else 1
        padding = rng.choice([0, 1, 1]) * dilation * (kernel // 2)
        conv_side = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        if conv_side < 2:
            continue
        conv = nn.Conv2d(
            channels,
            width,
            kernel,
            stride=stride,
            dilation=dilation,
            padding=padding,
            groups=groups,
        )
        modules += [conv, activation()]
        channels, side = width, conv_side
        pool = rng.choice([None, None, nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.AvgPool2d(2)])
        if pool is not None and side >= 6:
            modules.append(pool)
            side = pool(torch.zeros(1, 1, side, side)).shape[-1]
    readout = rng.choice(["flat", "flat", "flat", "global"])
    if readout == "global":
        modules.append(nn.AdaptiveAvgPool2d(1))
        side = 1
    modules.append(nn.Flatten())
    features = channels * side**2
    if rng.random() < 0.6:
        hidden = rng.choice([64, 128])
        modules += [nn.Linear(features, hidden), activation()]
        features = hidden
    modules.append(nn.Linear(features, 10))
    model = nn.Sequential(*modules).double()
    name = activation.__name__
    return RandomNetwork(seed, model, scheme(), data, image_side, width, depth, name, readout)


def small_network(seed: int, schemes: Sequence[Scheme], normalize: bool) -> RandomNetwork:
    """Draw a network of 2 to 4 convolutions that theory samples channel by channel."""
    rng = random.Random(seed)
    data, side = rng.choice(sorted(DATA)), rng.choice([10, 14, 20])
    activation, scheme = rng.choice(SMOOTH_OR_RELU), rng.choice(schemes)
    width, depth, image_side = rng.choice([16, 24, 32]), rng.randint(2, 4), side
    channels = 1 if data == "mnist" else 3
    modules: list[nn.Module] = []
    for index in range(depth):
        groups = rng.choice([1, 1, 2]) if index else 1
        modules.append(nn.Conv2d(channels, width, 3, padding=1, groups=groups))
        if normalize:
            modules.append(rng.choice([nn.BatchNorm2d(width), nn.GroupNorm(1, width)]))
        modules.append(activation())
        channels = width
        if side >= 8 and rng.random() < 0.5:
            modules.append(rng.choice([nn.MaxPool2d(2), nn.AvgPool2d(2)]))
            side //= 2
    modules += [nn.Flatten(), nn.Linear(channels * side**2, 10)]
    model = nn.Sequential(*modules).double()
    name = activation.__name__
    return RandomNetwork(seed, model, scheme, data, image_side, width, depth, name, "flat")


FAMILIES: dict[str, Callable[[int], RandomNetwork]] = {
    "zero_mean": random_network,
    "nonzero_mean": partial(small_network, schemes=NONZERO_MEAN, normalize=False),
    "normalization": partial(
        small_network, schemes=[scheme() for scheme in (HeNormal, LecunNormal)], normalize=True
    ),
}


def evaluate(seed: int, family: str, draws: int, root: str) -> pd.DataFrame:
    """Compare draws of one random network with the prediction.

    Returns
    -------
    pandas.DataFrame
        A row per draw, layer and quantity whose spread is predicted: the network's properties,
        `method`, `predicted_sd` and `measured_sd` of the log-moment of draws that are not 0, `pit`
        (the draw's quantile in its predicted distribution) and `hit` (inside the 95 % interval).
    """
    torch.set_num_threads(1)
    network = FAMILIES[family](seed)
    x = network.image(root)
    init = Init(network.scheme)
    moments = declared_moments(network.model, init)
    predicted = predict_finite_width(network.model, moments, x, seed=seed).to_frame()
    measured = measure_draws(
        network.model, x, WeightMoments(moments, "declared", init), draws, seed=seed
    )
    keys = ["layer_name", "quantity"]
    rows = measured[measured.image == -1].merge(
        predicted[predicted.image == -1][[*keys, "method", "value", *SHAPE]],
        on=keys,
        suffixes=("", "_predicted"),
    )
    rows = rows[rows.log_sd > MIN_SPREAD]
    with np.errstate(divide="ignore"):  # a draw of 0
        log_moment, log_value = np.log(rows.value.to_numpy(float)), np.log(rows.value_predicted)
    distribution = log_value.to_numpy(), *rows[[*SHAPE]].to_numpy(float).T
    log_of_positive = np.where(rows.value > 0, log_moment, np.nan)
    measured_sd = rows.assign(log=log_of_positive).groupby(keys).log.transform("std")
    frame = pd.DataFrame(
        {
            "network": seed,
            "draw": rows.draw,
            "layer_name": rows.layer_name,
            "quantity": rows.quantity,
            "backward": rows.quantity.isin(["vjp_m2", "weight_vjp_m2"]),
            "method": rows.method,
            "width": network.width,
            "depth": network.depth,
            "activation": network.activation,
            "init": str(network.scheme).removesuffix("()"),
            "readout": network.readout,
            "predicted_sd": rows.log_sd,
            "measured_sd": measured_sd,
            "pit": probability_transform(log_moment, *distribution),
            "hit": inside(log_moment, *distribution),
        }
    )
    return frame[~(frame.measured_sd <= MIN_SPREAD)]


def markdown(frame: pd.DataFrame, draws: int) -> str:
    """Format coverage and spread ratios, in total and by each property, as Markdown."""
    n = frame.network.nunique()
    layers = frame.drop_duplicates(["network", "layer_name", "quantity"])
    shares = layers.method.value_counts(normalize=True)
    methods = ", ".join(f"`{method}` {share:.0%}" for method, share in shares.items())
    parts = [
        f"{n} networks, {draws} draws each; {len(layers)} layer quantities by method: {methods}. "
        f"Commit {code_version()}, {datetime.now(UTC).date().isoformat()}.",
        "**All**\n\n" + _table("", [("all", frame)]),
    ]
    for group in GROUPS:
        rows = [(str(name), part) for name, part in frame.groupby(group)]
        parts.append(f"**By {group}**\n\n" + _table(group, rows))
    return "\n\n".join(parts)


def _table(title: str, rows: Sequence[tuple[str, pd.DataFrame]]) -> str:
    header = [title, "networks"]
    for side in ("forward", "backward"):
        header += [f"{side}: coverage", "predicted / measured sd", "PIT distance"]
    return markdown_table(header, [[name, *_cells(part)] for name, part in rows])


def _cells(frame: pd.DataFrame) -> Iterator[str]:
    yield str(frame.network.nunique())
    for backward in (False, True):
        rows = frame[frame.backward == backward]
        if rows.empty:
            yield from ("-", "-", "-")
            continue
        stream = rows.groupby(["network", "draw"]).ngroup()
        share = coverage(*(column.to_numpy() for column in (rows.hit, rows.network, stream)))
        layers = rows.drop_duplicates(["network", "layer_name", "quantity"])
        ratio = np.exp(np.nanmedian(np.log(layers.predicted_sd / layers.measured_sd)))
        # Kolmogorov's distance of the probability integral transform from the uniform distribution.
        distance = stats.kstest(rows.pit, "uniform").statistic
        yield f"{share.share:.1%} ({share.low:.1%} to {share.high:.1%})"
        yield f"{ratio:.2f}"
        yield f"{distance:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Draw random networks, compare them with theory, and write or print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.random_networks", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--family", choices=FAMILIES, default="zero_mean", help="default: %(default)s"
    )
    parser.add_argument("--networks", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--draws", type=int, default=200, help="per network; default: %(default)s")
    parser.add_argument("--first-seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--data-root", default="~/.cache/fanin", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="default: print")
    args = parser.parse_args(argv)
    seeds = range(args.first_seed, args.first_seed + args.networks)
    with exit_on_error(OSError):
        with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
            futures = [
                pool.submit(evaluate, seed, args.family, args.draws, args.data_root)
                for seed in seeds
            ]
            frames = []
            for seed, future in zip(seeds, futures, strict=True):
                frames.append(future.result())
                print(f"network {seed}: {frames[-1].method.iloc[0]}", flush=True)
        block = NAME if args.family == "zero_mean" else f"{NAME}_{args.family}"
        publish(markdown(pd.concat(frames), args.draws), args.write, block)


if __name__ == "__main__":
    main()
