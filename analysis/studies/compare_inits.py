"""`prescribe` against He, LSUV and anyinit's own init on an AlexNet: for docs/appendix/theory-networks.md.

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

from analysis.studies.baselines import VENV, how_to_install, query_tools
from analysis.studies.draws import measure_draws
from analysis.studies.tables import markdown_table, publish
from experiments.console import exit_on_error
from experiments.data import Data
from experiments.data.cifar import Cifar10
from experiments.scaling import Scaling, Standardize
from fanin.inits import HeNormal, Init, LayerInit, Lsuv, Normal
from fanin.models import AlexNet
from fanin.theory.moments import declared_moments
from fanin.theory.prescribe import prescribe

CALIBRATION = 64  # images that LSUV calibrates on
ASKED = 8  # of those, the ones that theory and anyinit are args about
MEASURED = 16  # other images, that all inits are measured on
WIDTH = 32  # of the first convolution

Images = Float[Tensor, "image channel height width"]


def images(root: str, source: Cifar10 | None = None) -> tuple[Images, Images]:
    """Calibration images, and others to measure on; standardized, float64."""
    data = Data(source or Cifar10(), root=root).load()
    fitted = Scaling(Standardize()).fit(data.train.x, data.full_scale)
    fed = fitted.apply(data.train.x[: CALIBRATION + MEASURED]).double()
    return fed[:CALIBRATION], fed[CALIBRATION:]


def inits(network: nn.Sequential, calibration: Images, venv: str = VENV) -> dict[str, Init]:
    """The inits by name; without anyinit's where that is not installed."""
    he = Init(HeNormal())
    found = {
        "He": he,
        "LSUV": Init(Lsuv()),
        "prescribe": prescribe(network, calibration[:ASKED]).init,
        "prescribe, both ways": prescribe(network, calibration[:ASKED], direction="both").init,
    }
    moments = declared_moments(network, he)
    variances = query_tools(network, moments, calibration[:ASKED], ["anyinit_init"], venv)[
        "anyinit_init"
    ]
    if isinstance(variances, str):
        return found
    layers = {
        name: LayerInit(Normal(std=v**0.5)) for name, v in zip(moments, variances, strict=True)
    }
    return found | {"anyinit": Init(Normal(std=1.0), layers=layers)}


def measured(
    network: nn.Sequential, of: Mapping[str, Init], calibration: Images, shown: Images, draws: int
) -> dict[str, pd.DataFrame]:
    """Draws of each init."""
    return {
        name: measure_draws(network, init, shown, draws, calibration=calibration)
        for name, init in of.items()
    }


def markdown(found: Mapping[str, pd.DataFrame]) -> str:
    """Forward and backward, a row per layer and a column per init."""
    draws = next(iter(found.values())).draw.nunique()
    parts = [
        f"{draws} draws of each, mean over {MEASURED} images that no init has seen. In brackets "
        "the standard deviation of one draw's logarithm.",
    ]
    for quantity, words in (("preact_m2", "pre-activation"), ("vjp_m2", "cotangent")):
        table = _table(found, quantity)
        parts += [f"Second moment of the {words}, E[{'y' if words[0] == 'p' else 'd'}^2]:", table]
    return "\n\n".join(parts)


def _table(found: Mapping[str, pd.DataFrame], quantity: str) -> str:
    columns = {name: list(_layers(draws, quantity)) for name, draws in found.items()}
    names = next(iter(found.values())).drop_duplicates("layer").sort_values("layer").layer_name
    rows = [
        [name, *(f"{mean[i]:.3g} ({sd[i]:.2f})" for mean, sd in columns.values())]
        for i, name in enumerate(names)
    ]
    swing = [f"x {np.exp(np.ptp(np.log(mean))):.3g}" for mean, _ in columns.values()]
    return markdown_table(["layer", *columns], [*rows, ["largest / smallest", *swing]])


def _layers(draws: pd.DataFrame, quantity: str) -> Iterator[np.ndarray]:
    rows = draws[draws.quantity == quantity]
    yield rows.groupby("layer").value.mean().to_numpy()
    yield np.log(rows.value).groupby(rows.layer).std().to_numpy()


def main(argv: Sequence[str] | None = None) -> None:
    """Prescribe, measure, and write or print."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.compare_inits", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--draws", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--data-root", default="~/.cache/fanin", help="default: %(default)s")
    parser.add_argument("--venv", default=VENV, help="where anyinit is; %(default)s")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put the tables there")
    args = parser.parse_args(argv)
    with exit_on_error():
        calibration, shown = images(args.data_root)
        network = AlexNet(width=WIDTH).build((3, 32, 32), 10, nn.ReLU)
        found = inits(network, calibration, args.venv)
        if "anyinit" not in found:
            print(how_to_install(args.venv), file=sys.stderr)
        text = markdown(measured(network, found, calibration, shown, args.draws))
        publish(text, args.write, "compare_inits")


if __name__ == "__main__":
    main()
