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


def noise(n: int, sd: float) -> np.ndarray:
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
    ).merge(pd.DataFrame({"steps": [250, 500, 750]}), "cross")
    limit = 5 * np.minimum(table["xi_c"], 40)
    accuracy = 2 * TRAINED / (1 + (table["depth"] / limit) ** 3)
    return table.assign(accuracy=np.clip(accuracy + noise(len(table), 0.03), 0, 1))


def he2015() -> pd.DataFrame:
    from analysis.figures.he2015 import DESIGN

    cells = design("he2015")[list(DESIGN.values())]
    table = cells.rename(columns={old: new for new, old in DESIGN.items()})
    he = table["init"] == "he_normal"
    trains = he | (table["depth"] == 22)
    rate = np.abs(np.log10(table["lr"] / 0.01))
    loss = np.where(trains, 0.7 + 0.1 * rate, 1.0) + noise(len(table), 0.005)
    return table.assign(
        loss=loss,
        mean_loss=loss + np.where(he, 0.0, 0.05),
        decay=np.where(he, 0.0, -1.0) + noise(len(table), 0.1),
    )


def xiao2018() -> pd.DataFrame:
    from analysis.figures.xiao2018 import DESIGN, with_phase

    cells = design("xiao2018")[list(DESIGN.values())]
    table = cells.rename(columns={old: new for new, old in DESIGN.items()})
    table = with_phase(table.drop(columns="gain"), table["gain"].astype(float) ** 2)
    best = (table["init"] == "delta_orthogonal") & (table["phase"] == "critical")
    trains = best | (table["depth"] < 100)
    loss = np.where(trains, 0.6, 1.0) + noise(len(table), 0.02)
    return table.assign(loss=loss, mean_loss=loss + 0.1)


def mishkin2016() -> pd.DataFrame:
    cells = design("mishkin2016")
    table = cells[["seed", "activation", "init", "optim.lr"]].rename(columns={"optim.lr": "lr"})
    orthonormal = table["init"].isin(["lsuv", "orthogonal"])
    maxout, tanh = (table["activation"] == name for name in ("maxout", "tanh"))
    # Xavier suits maxout and He suits ReLU, almost as well as the orthonormal inits.
    suits = np.where(maxout, "xavier_normal", "he_normal") == table["init"]
    accuracy = 0.35 + np.where((orthonormal | suits) & ~tanh, 0.05, 0.0)
    accuracy += np.where((table["init"] == "lsuv") & ~tanh, 0.03, 0.0)
    accuracy -= np.where((table["init"] == "lsuv") & tanh, 0.03, 0.0)
    accuracy -= 0.05 * np.abs(np.log10(table["lr"] / 0.01))
    return table.assign(accuracy=accuracy + noise(len(table), 0.003))


def poole2016() -> pd.DataFrame:
    from analysis.figures.poole2016 import STARTS, _maps

    cells = design("poole2016")
    table = cells[["seed", "init.gain", *STARTS]].rename(columns={"init.gain": "gain"})
    table["start"] = table.groupby(STARTS).ngroup()
    length = table["scaling.scale"] ** 2 + table["scaling.shift"] ** 2
    first = table.assign(
        layer=1,
        q=table["gain"] ** 2 * length + 0.09,
        c=(table["gain"] ** 2 * table["scaling.shift"] ** 2 + 0.09)
        / (table["gain"] ** 2 * length + 0.09),
    )
    first = first.drop(columns=STARTS)
    layers = pd.DataFrame({"layer": range(1, 31)})
    table = first.drop(columns="layer").merge(layers, "cross")
    maps = _maps(table, 0.09)  # reads q and c of the first layer only
    table = table.drop(columns=["q", "c"])
    table = table.merge(maps, on=["gain", "start", "layer"])
    # At the gain of the ordered phase, the map leaves 0.14 of the first deviation after 20 layers.
    # Here c approaches c* faster, so that every claim holds.
    ordered = table["chi_1"] < 1
    faster = np.where(ordered, np.exp(-0.05 * (table["layer"] - 1)), 1.0)
    c = table["c_star"] + (table["c_map"] - table["c_star"]) * faster
    # As measured, the noise of c grows from the first layer on, and is larger in the chaotic phase.
    sd = np.where(ordered, 0.015, 0.02) * (1 - np.exp(-(table["layer"] - 1) / 4))
    return table.assign(
        q=table["q_map"] * (1 + noise(len(table), 0.001)), c=c + sd * noise(len(table), 1.0)
    )


def hanin2018() -> pd.DataFrame:
    from analysis.figures.hanin2018 import LENGTHS, TRAINING

    cells = design("hanin2018")
    trained = cells[cells["train.steps"] > 0]
    hidden = trained["model.depth"] - 1
    training = pd.DataFrame(
        {
            "kind": TRAINING,
            "seed": trained["seed"],
            "init": trained["init"],
            "width": trained["model.width"],
            "depth": hidden,
            "beta": hidden / trained["model.width"],
            "lr": trained["optim.lr"],
        }
    )
    training["steps"] = 100 * 2 ** (training["beta"] + noise(len(training), 0.1))
    probed = cells[cells["train.steps"] == 0][["seed", "init", "model.width"]]
    lengths = probed.rename(columns={"model.width": "width"}).merge(
        pd.DataFrame({"depth": [1, 2, 4, 8, 16, 32]}), "cross"
    )
    beta = lengths["depth"] / lengths["width"]
    he = lengths["init"] == "he_normal"
    lengths = lengths.assign(
        kind=LENGTHS,
        beta=beta,
        var_log=5 * beta * np.exp(noise(len(lengths), 0.15)),
        mean=np.where(he, 1.0, 2.0 ** (1 - lengths["depth"])) * np.exp(noise(len(lengths), 0.1)),
    )
    return pd.concat([training, lengths], ignore_index=True)


def glorot2010() -> pd.DataFrame:
    cells = design("glorot2010")
    table = cells[["seed", "init", "optim.lr"]].rename(columns={"optim.lr": "lr"})
    normalized = table["init"] == "xavier_uniform"
    error = 0.03 + np.where(normalized, 0.0, 0.004) + 0.01 * np.abs(np.log10(table["lr"] / 0.1))
    return table.assign(
        error=error + noise(len(table), 0.0005),
        act_change=np.where(normalized, -1.0, -3.2) + noise(len(table), 0.05),
        grad_change=np.where(normalized, -1.2, -3.6) + noise(len(table), 0.05),
    )


def lewkowycz2020() -> pd.DataFrame:
    cells = design("lewkowycz2020")
    table = cells[["seed", "activation", "init.gain", "optim.lr"]].rename(
        columns={"activation": "network", "init.gain": "gain", "optim.lr": "lr"}
    )
    curvature = 20.0 * table["gain"] ** table["network"].map({"identity": 2, "relu": 4, "tanh": 3})
    x = table["lr"] * curvature * (1 + 0.05 * (table["seed"] - 1.5))
    diverges = x > np.where(table["network"] == "identity", 4.0, 10.0)
    flattening = np.where(x > 2, -1.0, 0.0) + noise(len(table), 0.1)
    return table.assign(
        x=x,
        rises=(x > 2).astype(float),
        diverges=diverges.astype(float),
        flattening=np.where(diverges, 0.0, flattening),
    )


def de2020() -> pd.DataFrame:
    from analysis.figures.de2020 import LIMIT_RATE
    from analysis.figures.de2020 import cells as study

    grid = design("de2020").rename(columns={"model.depth": "depth", "optim.lr": "lr"})
    table = grid[["seed", "model", "depth", "init", "lr"]].assign(norm=grid["model.norm"])
    trained = table[grid["train.steps"] > 0].assign(part=study.TRAINING, layer=0)
    unscaled, deep = trained["init"] == study.UNSCALED, trained["depth"] == 98
    loss = np.where(unscaled, np.where(deep, 1.0, 0.9), 0.85)
    loss = loss + np.where(unscaled & (trained["lr"] > 0.01), 0.1, 0.0)
    trained["loss"] = np.minimum(loss + noise(len(trained), 0.005), 1.0)
    start = table[grid["train.steps"] == 0]
    plain = start[start["model"] != study.RESIDUAL].assign(part=study.GRADIENTS)
    plain = plain.merge(pd.DataFrame({"layer": range(2, 21)}), "cross")
    is_batch = plain["norm"] == study.NORMALIZED
    plain["log_gradient_predicted"] = -LIMIT_RATE * plain["layer"].where(is_batch, 0)
    plain["log_gradient"] = plain["log_gradient_predicted"] + noise(len(plain), 0.05)
    stream = start[start["model"] == study.RESIDUAL].assign(part=study.STREAM)
    blocks = pd.DataFrame({"layer": range(1, 16)})
    blocks["stage"] = 1 + (blocks["layer"] - 1) // 5
    stream = stream.merge(blocks, "cross")
    linear = 0.5 + (stream["layer"] - 1) % 5 + 1
    predicted = np.where(stream["norm"] == study.NORMALIZED, linear, 2.0 ** stream["layer"])
    stream["stream_predicted"] = predicted
    stream["stream"] = predicted * np.exp(noise(len(stream), 0.02))
    return pd.concat([plain, stream, trained], ignore_index=True)


RECORDS: dict[str, Callable[[], pd.DataFrame]] = {
    record.__name__: record
    for record in (
        *(schoenholz2017, he2015, xiao2018, mishkin2016),
        *(poole2016, hanin2018, glorot2010, lewkowycz2020, de2020),
    )
}
