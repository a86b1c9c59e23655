"""Compare `prescribe`, He, LSUV and anyinit on an AlexNet, for docs/appendix/.

python -m analysis.studies.compare_inits --write docs/appendix/theory-networks.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor, nn

from analysis.studies.baselines import VENV, install_hint, query_tools
from analysis.studies.blocks import publish
from analysis.studies.draws import measure_draws
from analysis.studies.tables import markdown_table
from experiments.console import exit_on_error
from experiments.data import Data
from experiments.data.cifar import Cifar10
from experiments.scaling import Scaling, Standardize
from fanin.inits import HeNormal, Init, LayerInit, Lsuv, Normal
from fanin.models import AlexNet
from fanin.theory.moments import declared_moments
from fanin.theory.prescribe import prescribe

CALIBRATION = 64  # calibration images of LSUV
PRESCRIBED = 8  # calibration images of `prescribe` and anyinit
MEASURED = 16  # other images, on which all inits are measured
WIDTH = 32  # channels of the first convolution

Images = Float[Tensor, "image channel height width"]


def images(root: str, source: Cifar10 | None = None) -> tuple[Images, Images]:
    """Return calibration images and other images to measure on, standardized, in float64."""
    data = Data(source or Cifar10(), root=root).load()
    fitted = Scaling(Standardize()).fit(data.train.x, data.full_scale)
    scaled = fitted.apply(data.train.x[: CALIBRATION + MEASURED]).double()
    return scaled[:CALIBRATION], scaled[CALIBRATION:]


def inits(network: nn.Sequential, calibration: Images, venv: str = VENV) -> dict[str, Init]:
    """Return the inits by name, with anyinit's only if it is installed."""
    he = Init(HeNormal())
    images = calibration[:PRESCRIBED]
    by_name = {
        "He": he,
        "LSUV": Init(Lsuv()),
        "prescribe": prescribe(network, images, max_images=None).init,
        "prescribe, both directions": prescribe(
            *(network, images), direction="both", max_images=None
        ).init,
    }
    moments = declared_moments(network, he)
    variances = query_tools(network, moments, images, ["anyinit_init"], venv)["anyinit_init"]
    if isinstance(variances, str):
        return by_name
    layers = {
        name: LayerInit(Normal(std=v**0.5)) for name, v in zip(moments, variances, strict=True)
    }
    return by_name | {"anyinit": Init(Normal(std=1.0), layers=layers)}


def measure_inits(
    network: nn.Sequential,
    inits: Mapping[str, Init],
    calibration: Images,
    images: Images,
    draws: int,
) -> dict[str, pd.DataFrame]:
    """Measure draws of each init."""
    return {
        name: measure_draws(network, init, images, draws, calibration=calibration)
        for name, init in inits.items()
    }


def markdown(measured: Mapping[str, pd.DataFrame]) -> str:
    """Format the second moments, forward and backward: a row per layer, a column per init."""
    draws = next(iter(measured.values())).draw.nunique()
    parts = [
        f"{draws} draws of each init, mean over {MEASURED} images that are not calibration images. "
        "In brackets: standard deviation of the logarithm of one draw.",
    ]
    for quantity, symbol in (
        ("preact_m2", "pre-activation, E[y^2]"),
        ("vjp_m2", "cotangent, E[d^2]"),
    ):
        parts += [f"Second moment of the {symbol}:", _table(measured, quantity)]
    return "\n\n".join(parts)


def _table(measured: Mapping[str, pd.DataFrame], quantity: str) -> str:
    columns = {name: list(_layers(draws, quantity)) for name, draws in measured.items()}
    names = next(iter(measured.values())).drop_duplicates("layer").sort_values("layer").layer_name
    rows = [
        [name, *(f"{mean[i]:.3g} ({sd[i]:.2f})" for mean, sd in columns.values())]
        for i, name in enumerate(names)
    ]
    ranges = [f"x {np.exp(np.ptp(np.log(mean))):.3g}" for mean, _ in columns.values()]
    return markdown_table(["layer", *columns], [*rows, ["largest / smallest", *ranges]])


def _layers(draws: pd.DataFrame, quantity: str) -> Iterator[np.ndarray]:
    rows = draws[draws.quantity == quantity]
    yield rows.groupby("layer").value.mean().to_numpy()
    yield np.log(rows.value).groupby(rows.layer).std().to_numpy()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all inits, and write or print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.compare_inits", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--draws", type=int, default=100, help="draws per init (default: %(default)s)"
    )
    parser.add_argument(
        "--data-root", default="~/.cache/fanin", help="folder of CIFAR-10 (default: %(default)s)"
    )
    parser.add_argument(
        "--venv", default=VENV, help="virtual environment of anyinit (default: %(default)s)"
    )
    parser.add_argument(
        "--write",
        metavar="PAGE",
        type=Path,
        help="write the tables into this page, between its marker lines (default: print them)",
    )
    args = parser.parse_args(argv)
    with exit_on_error():
        calibration, test_images = images(args.data_root)
        network = AlexNet(width=WIDTH).build((3, 32, 32), 10, nn.ReLU)
        by_name = inits(network, calibration, args.venv)
        if "anyinit" not in by_name:
            print(install_hint(args.venv), file=sys.stderr)
        text = markdown(measure_inits(network, by_name, calibration, test_images, args.draws))
        publish(text, args.write, "compare_inits")


if __name__ == "__main__":
    main()
