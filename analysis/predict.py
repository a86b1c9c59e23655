"""Predict every layer of a configured cell, without training: `python -m analysis.predict`.

python -m analysis.predict model=alexnet init=he_normal activation=tanh data=mnist
python -m analysis.predict model=plain format=json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import hydra
import pandas as pd
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.config.loader import CONF, hydra_arguments
from experiments.errors import UNUSABLE, ConfigError, FaninError
from experiments.sweep.command import check_argv, space_of

CONFIG_NAME = "predict"
FORMATS = ("table", "json")
# What the table shows; format=json has every quantity.
SHOWN = (
    ("preact_m2", "he"),
    ("preact_m2", "mean_field"),
    ("preact_mean", "mean_field"),
    ("vjp_m2", "he"),
    ("vjp_m2", "mean_field"),
)


# An absolute path: from a console script Hydra would look for a relative one inside a package.
@hydra.main(config_path=str(CONF), config_name=CONFIG_NAME, version_base="1.3")
def predict_one(config: DictConfig) -> None:
    """Predict the cell that Hydra composed."""
    from experiments.sweep.expand import expand
    from experiments.sweep.overrides import parse_arguments
    from experiments.sweep.request import understand

    about = HydraConfig.get()
    loader = GlobalHydra.instance().config_loader()
    try:
        arguments = parse_arguments(loader, list(about.overrides.task))
        space = space_of(loader, about.job.config_name, tuple(about.overrides.hydra))
        request = understand(space, [a for a in arguments if a.key != "format"])
        (cell,) = expand(space, request.grids)
        show(cell.config, cell.id, config.format)
    except FaninError as error:
        print(error, file=sys.stderr)
        raise SystemExit(UNUSABLE) from None


def show(config: dict[str, Any], cell_id: str, form: str) -> None:
    """Print the prediction: a table for people, or one JSON object."""
    from analysis.theory.cell import predict_cell

    if form not in FORMATS:
        raise ConfigError(f"format={form}: expected one of {', '.join(FORMATS)}")
    frame = predict_cell(config)
    if form == "json":
        print(json.dumps({"cell_id": cell_id, "layers": as_objects(frame)}, indent=2))
    else:
        Console().print(as_table(frame, cell_id))


def as_objects(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One object a weight layer: index, name, and each rung's quantities (mean over the images).

    What is no finite number becomes None, for JSON has neither infinity (moments beyond float64)
    nor NaN (images with missing pixels); the table tells them apart.
    """
    layers = []
    mean = frame[frame.image == -1]
    for (layer, name), rows in mean.groupby(["layer", "layer_name"], sort=True):
        rungs: dict[str, dict[str, float | None]] = {}
        for row in rows.itertuples():
            finite = pd.notna(row.value) and abs(row.value) != float("inf")
            rungs.setdefault(row.rung, {})[row.quantity] = float(row.value) if finite else None
        layers.append({"layer": int(layer), "layer_name": name, **rungs})
    return layers


def as_table(frame: pd.DataFrame, cell_id: str) -> Table:
    """Layers down, quantities and rungs across."""
    title = f"{cell_id}\nat initialization, mean over the probe images"
    # Narrow enough for eighty columns, however large the numbers.
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("layer", justify="right")
    table.add_column("name", no_wrap=True)
    for quantity, rung in SHOWN:
        table.add_column(f"{quantity}\n{rung}", justify="right", no_wrap=True)
    mean = frame[frame.image == -1]
    wide = mean.pivot(index=["layer", "layer_name"], columns=["quantity", "rung"], values="value")
    for layer, name, *numbers in wide[list(SHOWN)].reset_index().itertuples(index=False):
        table.add_row(str(layer), str(name), *(f"{number:.4g}" for number in numbers))
    return table


def main() -> None:
    """Check the command line, then let Hydra take it."""
    if hydra_arguments().multirun:
        print("analysis.predict takes one cell; leave out -m", file=sys.stderr)
        raise SystemExit(UNUSABLE)
    check_argv(CONFIG_NAME)
    predict_one()


if __name__ == "__main__":
    main()
