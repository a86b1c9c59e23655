"""The design of each study's own grid, with outcomes as its claims say: records for tests.

They show that a study's claims can be reproduced, and are the records that null models replace
while the study has no committed summary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import torch

from experiments.config.catalog import ConfigCatalog, config_loader
from experiments.config.identity import flatten
from experiments.sweep.expand import expand
from experiments.sweep.overrides import parse_arguments
from experiments.sweep.request import parse_request
from fanin.theory.depth_scales import depth_scales

RNG = np.random.default_rng(0)


@cache
def catalog() -> ConfigCatalog:
    return ConfigCatalog(config_loader(), "config")


@cache
def design(sweep: str, size: str = "standard") -> pd.DataFrame:
    """Return the config columns of every cell of a sweep, as in `Results.cells`."""
    arguments = parse_arguments(config_loader(), [f"sweep={sweep}", f"sweep.size={size}"])
    cells = expand(catalog(), parse_request(catalog(), arguments).grids)
    return pd.DataFrame([{**dict(flatten(cell.config)), **cell.choices} for cell in cells])


def _noise(n: int, sd: float) -> np.ndarray:
    return sd * RNG.standard_normal(n)


def schoenholz2017() -> pd.DataFrame:
    from analysis.figures.schoenholz2017 import TRAINED

    cells = design("schoenholz2017")
    weight_var = (cells["init.gain"].astype(float) ** 2).round(4)
    xi = {var: depth_scales(torch.tanh, var, 0.05).xi_c for var in weight_var.unique()}
    table = pd.DataFrame(
        {
            "seed": cells["seed"],
            "weight_var": weight_var,
            "xi_c": weight_var.map(xi),
            "depth": cells["model.depth"],
        }
    ).merge(pd.DataFrame({"steps": [200, 400, 600]}), "cross")
    limit = 5 * np.minimum(table["xi_c"], 40)
    accuracy = 2 * TRAINED / (1 + (table["depth"] / limit) ** 3)
    return table.assign(accuracy=np.clip(accuracy + _noise(len(table), 0.03), 0, 1))


def he2015() -> pd.DataFrame:
    from analysis.figures.he2015 import DESIGN

    cells = design("he2015")[list(DESIGN.values())]
    table = cells.rename(columns={old: new for new, old in DESIGN.items()})
    he = table["init"] == "he_normal"
    trains = he | (table["depth"] == 22)
    rate = np.abs(np.log10(table["lr"] / 0.01))
    loss = np.where(trains, 0.7 + 0.1 * rate, 1.0) + _noise(len(table), 0.005)
    return table.assign(
        loss=loss,
        mean_loss=loss + np.where(he, 0.0, 0.05),
        decay=np.where(he, 0.0, -1.0) + _noise(len(table), 0.1),
    )


def xiao2018() -> pd.DataFrame:
    from analysis.figures.xiao2018 import DESIGN, with_phase

    cells = design("xiao2018")[list(DESIGN.values())]
    table = cells.rename(columns={old: new for new, old in DESIGN.items()})
    table = with_phase(table.drop(columns="gain"), table["gain"].astype(float) ** 2)
    best = (table["init"] == "delta_orthogonal") & (table["phase"] == "critical")
    trains = best | (table["depth"] < 100)
    loss = np.where(trains, 0.6, 1.0) + _noise(len(table), 0.02)
    return table.assign(loss=loss, mean_loss=loss + 0.1)


RECORDS: dict[str, Callable[[], pd.DataFrame]] = {
    record.__name__: record for record in (schoenholz2017, he2015, xiao2018)
}
