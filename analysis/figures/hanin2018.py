"""Study `hanin2018`: training time and lengths against the sum of reciprocal widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.figures.query import select
from analysis.figures.style import PALETTE
from analysis.load import Results
from analysis.scoring.effects import partial_rank_correlation, per_seed
from analysis.scoring.scored_study import ScoredStudy, Tables
from analysis.scoring.summary import CELLS
from fanin.errors import FaninError

SIZE = (7.2, 2.7)  # inches
ERROR = 0.2  # test error at which training ends, as in the paper's figure
TRAINING, LENGTHS = "training", "lengths"
HE, XAVIER = "he_normal", "xavier_normal"
LABELS = {HE: "He", XAVIER: "Xavier"}
MARKERS = ("o", "s", "^", "D")
DEEP = 32  # layer at which the mean lengths of two inits are compared
MIN_MEAN = 1e-30  # smallest mean length, so that its logarithm is finite


def _rows(cells: pd.DataFrame, kind: str, init: str = HE) -> pd.DataFrame:
    return cells[(cells["kind"] == kind) & (cells["init"] == init)]


def _training_time(cells: pd.DataFrame) -> float:
    rows = _rows(cells, TRAINING).groupby(["width", "beta", "depth"])["steps"].min().reset_index()
    return partial_rank_correlation(rows["beta"], rows["steps"], given=rows["depth"])


def _fluctuation(cells: pd.DataFrame) -> float:
    rows = _rows(cells, LENGTHS)
    return partial_rank_correlation(rows["beta"], rows["var_log"], given=rows["depth"])


def _mean_kept(cells: pd.DataFrame) -> float:
    """Return log10 of the mean length under He's init over that under Xavier's, in a deep layer."""
    means = [
        rows.loc[rows["depth"] == DEEP, "mean"].clip(lower=MIN_MEAN).map(np.log10).mean()
        for rows in (_rows(cells, LENGTHS, init) for init in (HE, XAVIER))
    ]
    return float(means[0] - means[1])


def summarize(results: Results) -> dict[str, pd.DataFrame]:
    """Return the steps to 20 % test error, and mean and fluctuation of the lengths by layer."""
    if results.curves.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: the sweep has not finished; run the rest of it")
    cells = pd.concat([_training(results), _lengths(results)], ignore_index=True)
    trained = results.cells[results.cells["train.steps"] > 0].iloc[:1]
    about = ["data.n_train", "train.batch_size", "train.steps", "train.evaluate_every"]
    setting = trained[about].astype(float).reset_index(drop=True)
    probed = results.cells[results.cells["train.steps"] == 0]
    draws = float(probed["probe.draws"].iloc[0])
    return {CELLS: cells, "setting": setting.assign(draws=draws)}


def _training(results: Results) -> pd.DataFrame:
    cells = results.cells[results.cells["train.steps"] > 0]
    curves = select(results.curves, metric="test_accuracy")
    reached = curves[curves["value"] >= 1 - ERROR]
    during = reached.groupby(reached["cell_id"].astype(str))["step"].min()
    # The accuracy after the last step is in the cells. A network that does not reach the error,
    # for example because it diverged, counts as twice the number of steps.
    n_steps = cells["train.steps"].astype(int)
    at_end = n_steps.where(cells["test_accuracy"] >= 1 - ERROR, 2 * n_steps)
    hidden = cells["model.depth"].astype(int) - 1
    return pd.DataFrame(
        {
            "kind": TRAINING,
            "seed": cells["seed"].astype(int),
            "init": cells["init"].astype(str),
            "width": cells["model.width"].astype(int),
            "depth": hidden,
            "beta": hidden / cells["model.width"].astype(int),
            "lr": cells["optim.lr"].astype(float),
            "steps": cells["cell_id"].astype(str).map(during).fillna(at_end),
        }
    )


def _lengths(results: Results) -> pd.DataFrame:
    """Return mean and log-variance of the lengths, by seed, init, width and layer.

    The length of layer d is the second moment of its activations, divided by the mean of layer 1
    under He's init, which is that of the input.
    """
    probed = results.cells[results.cells["train.steps"] == 0]
    about = probed[["cell_id", "seed", "init", "model.width", "model.depth"]]
    rows = select(results.layers, quantity="act_m2", image=-1).merge(about)
    rows = rows[(rows["layer"] > 0) & (rows["layer"] < rows["model.depth"])]
    first = select(rows, layer=1, init=HE)["value"].mean()
    rows = rows.assign(value=rows["value"] / first, log=np.log(rows["value"].replace(0.0, np.nan)))
    groups = rows.groupby(["seed", "init", "model.width", "layer"], observed=True)
    table = groups.agg(mean=("value", "mean"), var_log=("log", "var")).reset_index()
    table = table.rename(columns={"model.width": "width", "layer": "depth"})
    table = table[_is_power_of_two(table["depth"])]
    beta = table["depth"] / table["width"]
    return table.assign(kind=LENGTHS, init=table["init"].astype(str), beta=beta)


def _is_power_of_two(values: pd.Series) -> pd.Series:
    return np.log2(values.astype(float)) % 1 == 0


def caption(tables: Tables) -> str:
    """Write the caption."""
    cells, setting = tables[CELLS], tables["setting"].iloc[0]
    n = cells["seed"].nunique()
    rates = sorted(cells["lr"].dropna().unique())
    return (
        "ReLU networks of constant width under He's init. beta: sum of 1/width over the hidden "
        f"layers. Left: steps until the test error is {100 * ERROR:.0f} % on MNIST "
        f"({setting['data.n_train']:,.0f} images, batches of {setting['train.batch_size']:.0f}), "
        f"at the fastest learning rate of {', '.join(f'{rate:g}' for rate in rates)}; "
        f"{2 * setting['train.steps']:,.0f} means not within {setting['train.steps']:,.0f}. "
        "Middle: variance over draws of the log length of a layer's activations, for one Gaussian "
        f"image. Right: mean length at width 64, by init. Symbols: mean over n = {n} seeds (of "
        f"{setting['draws']:.0f} draws each); bars: their range."
    )


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw training time, fluctuation and mean."""
    cells = tables[CELLS]
    figure = Figure(figsize=SIZE, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    training = _rows(cells, TRAINING)
    fastest = training.groupby(["seed", "width", "beta"])["steps"].min().reset_index()
    for axis, rows, name in ((left, fastest, "steps"), (middle, _rows(cells, LENGTHS), "var_log")):
        for number, (width, of_width) in enumerate(rows.groupby("width")):
            _draw(axis, of_width, "beta", name, number, f"width {width:.0f}")
        axis.set_xscale("log")
        axis.set_xlabel(r"$\beta$ (sum of 1 / width)")
    left.set_yscale("log")
    _plain_ticks(left.xaxis, sorted(fastest["beta"].unique()))
    _plain_ticks(middle.xaxis, (0.01, 0.1, 1))
    last = 2 * int(tables["setting"]["train.steps"].iloc[0])
    _plain_ticks(left.yaxis, [last / 2**k for k in range(int(np.log2(last)))])
    left.set_ylabel("steps to 20 % error")
    middle.set_ylabel("variance of log length")
    lengths = cells[(cells["kind"] == LENGTHS) & (cells["width"] == 64)]
    for number, (init, rows) in enumerate(lengths.groupby("init")):
        _draw(right, rows, "depth", "mean", number, LABELS.get(str(init), str(init)))
    right.set_xscale("log")
    _plain_ticks(right.xaxis, sorted(lengths["depth"].unique()))
    right.set_yscale("log")
    right.minorticks_off()
    right.set_xlabel("layer")
    right.set_ylabel("mean length")
    for axis in (left, middle, right):
        if axis.get_legend_handles_labels()[0]:  # a small run may lack a width
            axis.legend(
                frameon=False, fontsize="x-small", loc="upper left" if axis is middle else None
            )
        sns.despine(ax=axis)
    return {"hanin2018": figure}


def _plain_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """Put these ticks on a logarithmic axis, labeled with plain numbers; its range stays."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_locator(NullLocator())


def _draw(axis: Axes, rows: pd.DataFrame, x: str, y: str, number: int, label: str) -> None:
    groups = rows.groupby(x)[y]
    mean = groups.mean()
    axis.errorbar(
        mean.index, mean, yerr=[mean - groups.min(), groups.max() - mean], label=label,
        marker=MARKERS[number % len(MARKERS)], color=PALETTE[number], markersize=3.5, linewidth=0.9,
    )  # fmt: skip


STUDY = ScoredStudy(
    summarize=summarize,
    outcomes=("steps", "var_log", "mean"),
    effects={
        "training_time": per_seed(_training_time),
        "fluctuation": per_seed(_fluctuation),
        "mean_kept": per_seed(_mean_kept),
    },
    figures=figures,
    caption=caption,
)
