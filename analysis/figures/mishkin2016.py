"""Study `mishkin2016`: test accuracy of a thin deep network by init and activation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.query import select
from analysis.load import Results
from analysis.scoring.effects import per_seed
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS
from fanin.errors import FaninError

SIZE = (4.8, 3.4)  # inches
INITS = {
    "lsuv": "LSUV",
    "orthogonal": "orthonormal",
    "xavier_normal": "Xavier",
    "he_normal": "He (MSRA)",
}
ACTIVATIONS = {
    "maxout": "maxout",
    "relu": "ReLU",
    "leaky_relu": "very leaky ReLU",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
ORTHONORMAL_BETTER = ["maxout", "relu", "leaky_relu"]  # as the paper claims
BLACK_TEXT_FROM = 0.4  # accuracy above which the text of a box is black


def _by_init(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of one seed: a row per activation, a column per init."""
    return cells.pivot_table(index="activation", columns="init", values="accuracy")


def _orthonormal_advantage(table: pd.DataFrame) -> pd.Series:
    orthonormal = table[["lsuv", "orthogonal"]].mean(axis=1)
    return orthonormal - table[["xavier_normal", "he_normal"]].mean(axis=1)


def _advantage(cells: pd.DataFrame) -> float:
    return float(_orthonormal_advantage(_by_init(cells))[ORTHONORMAL_BETTER].mean())


def _tanh_exception(cells: pd.DataFrame) -> float:
    advantage = _orthonormal_advantage(_by_init(cells))
    return float(advantage[ORTHONORMAL_BETTER].mean() - advantage["tanh"])


def _lsuv_advantage(cells: pd.DataFrame) -> float:
    table = _by_init(cells).loc[ORTHONORMAL_BETTER]
    return float((table["lsuv"] - table["orthogonal"]).mean())


def _sigmoid_deficit(cells: pd.DataFrame) -> float:
    """Return the worst LSUV accuracy of the other activations, minus sigmoid's best accuracy."""
    table = _by_init(cells)
    return float(table["lsuv"].drop("sigmoid").min() - table.loc["sigmoid"].max())


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the final test accuracy of each network, and the accuracy at a third of the steps."""
    if results.curves.empty:
        raise FaninError(f"{results.folder.root}: no network has been trained yet; run the sweep")
    cells = results.cells
    ids = cells["cell_id"].astype(str)
    curves = select(results.curves, metric="test_accuracy")
    curves = curves.assign(cell_id=curves["cell_id"].astype(str))
    by_step = curves.pivot_table(index="cell_id", columns="step", values="value", aggfunc="last")
    late = by_step.iloc[:, -2] if by_step.shape[1] > 1 else by_step.iloc[:, -1]
    chance = 0.1  # of ten classes; a diverged network has no accuracy
    table = pd.DataFrame(
        {
            "seed": cells["seed"].astype(int),
            "activation": cells["activation"].astype(str),
            "init": cells["init"].astype(str),
            "accuracy": cells["test_accuracy"].fillna(chance),
            "earlier_accuracy": ids.map(late).fillna(chance),
        }
    )
    about = ["model.width", "data.n_train", "data.side", "train.steps", "optim.lr"]
    setting = cells[about].iloc[:1].astype(float).reset_index(drop=True)
    return {CELLS: table, "setting": setting}


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    gain = (cells["accuracy"] - cells["earlier_accuracy"]).abs().groupby(cells["init"]).mean()
    return (
        f"FitNet-4 with 17 convolutions of {setting['model.width']:.0f} channels on "
        f"{setting['data.n_train']:,.0f} images of CIFAR-10, {setting['data.side']:.0f} x "
        f"{setting['data.side']:.0f} pixels, {setting['train.steps']:,.0f} steps of SGD with "
        f"momentum, learning rate {setting['optim.lr']:g} with three steps down: test accuracy, "
        f"mean and standard error over n = {cells['seed'].nunique()} seeds. Orthonormal inits: "
        "LSUV and orthonormal; scaled Gaussian: Xavier and He. In the last quarter of training the "
        f"accuracy changed by at most {gain.max():.3f} (mean over networks of an init)."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the table of accuracies."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    groups = tables[CELLS].groupby(["activation", "init"])["accuracy"]
    mean = groups.mean().unstack().reindex(index=list(ACTIVATIONS), columns=list(INITS))
    se = groups.sem().unstack().reindex(index=list(ACTIVATIONS), columns=list(INITS))
    image = axis.imshow(mean, cmap="cividis", vmin=0, vmax=0.8, aspect="auto")
    for (row, column), value in np.ndenumerate(mean.to_numpy()):
        axis.text(
            column, row, f"{value:.3f}\n± {se.iat[row, column]:.3f}", ha="center", va="center",
            fontsize="small", color="black" if value > BLACK_TEXT_FROM else "white",
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
        "orthonormal_advantage": per_seed(_advantage),
        "lsuv_advantage": per_seed(_lsuv_advantage),
        "tanh_exception": per_seed(_tanh_exception),
        "sigmoid_deficit": per_seed(_sigmoid_deficit),
    },
    figures=figures,
    caption=caption,
)
