"""Study `mishkin2016`: test accuracy of a thin deep network by init and activation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.load import Results
from analysis.scoring.effects import tuned
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS
from analysis.scoring.verdict import Effect
from fanin.errors import FaninError

SIZE = (4.8, 3.4)  # inches
INITS = {
    "lsuv": "LSUV",
    "orthogonal": "orthonormal",
    "xavier_normal": "Xavier",
    "he_normal": "He (MSRA)",
}
ACTIVATIONS = {"maxout": "maxout", "relu": "ReLU", "tanh": "tanh"}
LSUV, ORTHONORMAL = "lsuv", "orthogonal"
GAUSSIAN = ["xavier_normal", "he_normal"]
BETTER_WITH = ["maxout", "relu"]  # activations with which orthonormal inits are better
MARGIN = 0.02  # difference of two accuracies that counts
BLACK_TEXT_FROM = 0.6  # of the color scale; cividis is light there


def _tuned(cells: pd.DataFrame, inits: list[str]) -> pd.DataFrame:
    """Return the accuracy with the best of some inits: a row per seed, a column per activation.

    The init and its learning rate are those with the highest mean accuracy over the other seeds.
    """
    rows = cells[cells["init"].isin(inits)]
    setting = rows["init"] + " " + rows["lr"].astype(str)
    rows = rows.assign(setting=setting, error=1 - rows["accuracy"])
    return tuned(rows, ["activation"], "setting", "error", "accuracy")


def matches_best(init: str) -> Effect:
    """Return the effect: an init is as good as the better Gaussian one, and each of them is not.

    It is the smaller one of two numbers. The first is `MARGIN` plus the init's advantage over the
    better Gaussian init, with the activation for which that is smallest. The second is the init's
    advantage over a Gaussian init with the activation for which that is largest, for the Gaussian
    init for which that is smaller, minus `MARGIN`.
    """

    def effect(cells: pd.DataFrame) -> pd.Series:
        own = _tuned(cells, [init])[BETTER_WITH]
        as_good = (own - _tuned(cells, GAUSSIAN)).min(axis=1, skipna=False) + MARGIN
        better = [
            (own - _tuned(cells, [one])[BETTER_WITH]).max(axis=1, skipna=False) - MARGIN
            for one in GAUSSIAN
        ]
        return pd.concat([as_good, *better], axis=1).min(axis=1, skipna=False)

    return lambda cells: effect(cells[cells["activation"].isin(BETTER_WITH)])


def lsuv_advantage(cells: pd.DataFrame) -> pd.Series:
    """Return the effect: accuracy with LSUV minus with the orthonormal init."""
    difference = _tuned(cells, [LSUV]) - _tuned(cells, [ORTHONORMAL])
    return difference[BETTER_WITH].mean(axis=1)


def tanh_exception(cells: pd.DataFrame) -> pd.Series:
    """Return the effect: LSUV's advantage over the better Gaussian init, minus that with tanh."""
    advantage = _tuned(cells, [LSUV]) - _tuned(cells, GAUSSIAN)
    return advantage[BETTER_WITH].mean(axis=1) - advantage["tanh"]


def gaussian_fails(cells: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies that differ only by He's init failing with maxout."""
    fails = (cells["init"] == "he_normal") & (cells["activation"] == "maxout")
    return cells.assign(accuracy=np.where(fails, 0.1, 0.4))


def orthonormal_fails(cells: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies with which each orthonormal init fails with ReLU, and He's with maxout."""
    fails = cells["init"].isin([LSUV, ORTHONORMAL]) & (cells["activation"] == "relu")
    table = gaussian_fails(cells)
    return table.assign(accuracy=table["accuracy"].mask(fails, 0.1))


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the final test accuracy of each network."""
    if results.curves.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    cells = results.cells
    chance = 0.1  # of ten classes; a diverged network has no accuracy
    table = pd.DataFrame(
        {
            "seed": cells["seed"].astype(int),
            "activation": cells["activation"].astype(str),
            "init": cells["init"].astype(str),
            "lr": cells["optim.lr"].astype(float),
            "accuracy": cells["test_accuracy"].fillna(chance),
        }
    )
    about = ["model.width", "data.n_train", "data.side", "train.steps"]
    setting = cells[about].iloc[:1].astype(float).reset_index(drop=True)
    return {CELLS: table, "setting": setting}


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    rates = ", ".join(f"{rate:g}" for rate in sorted(cells["lr"].unique()))
    return (
        f"FitNet-4 with 17 convolutions of {setting['model.width']:.0f} channels on "
        f"{setting['data.n_train']:,.0f} images of CIFAR-10, {setting['data.side']:.0f} x "
        f"{setting['data.side']:.0f} pixels, {setting['train.steps']:,.0f} steps of SGD with "
        f"momentum, learning rate three times divided by 10: test accuracy at the best of the "
        f"learning rates {rates} (chosen for each seed by the others), mean and standard error "
        f"over n = {cells['seed'].nunique()} seeds. With maxout, He's init has the variance "
        "1 / fan_in, which keeps the second moment of the signals as 2 / fan_in does with ReLU."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the table of accuracies."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    by_init = {init: _tuned(tables[CELLS], [init]) for init in INITS}
    mean = pd.DataFrame({init: table.mean() for init, table in by_init.items()})
    se = pd.DataFrame({init: table.sem() for init, table in by_init.items()})
    mean, se = (table.reindex(index=list(ACTIVATIONS)) for table in (mean, se))
    top = np.ceil(10 * mean.to_numpy().max()) / 10
    image = axis.imshow(mean, cmap="cividis", vmin=0, vmax=top, aspect="auto")
    for (row, column), value in np.ndenumerate(mean.to_numpy()):
        axis.text(
            column, row, f"{value:.3f}\n± {se.iat[row, column]:.3f}", ha="center", va="center",
            fontsize="small", color="black" if value > BLACK_TEXT_FROM * top else "white",
        )  # fmt: skip
    axis.set_xticks(range(len(INITS)), list(INITS.values()))
    axis.set_yticks(range(len(ACTIVATIONS)), list(ACTIVATIONS.values()))
    axis.set_xlabel("init scheme")
    axis.set_ylabel("activation")
    figure.colorbar(image, ax=axis, label="test accuracy (share of images)")
    return {"mishkin2016": figure}


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("accuracy",),
    effects={
        "lsuv_matches_best": matches_best(LSUV),
        "orthonormal_matches_best": matches_best(ORTHONORMAL),
        "lsuv_advantage": lsuv_advantage,
        "tanh_exception": tanh_exception,
    },
    figures=figures,
    caption=caption,
    null_models={
        "He fails with maxout": gaussian_fails,
        "orthonormal inits fail with ReLU": orthonormal_fails,
    },
)
