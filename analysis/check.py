"""Check a sweep against theory, layer by layer: `python -m analysis.check NAME`.

Exit status 1 where the highest theory that predicts a layer disagrees with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from analysis.cli import add_sweep, plain_console, prediction_progress, probability
from analysis.comparison import TheoryComparison, compare, decompose_gap, table
from analysis.load import load
from analysis.summary import findings, needed_in_words, summary
from analysis.verdicts import intervals, verdicts
from experiments.console import exit_on_error
from fanin.errors import FaninError, nearest
from fanin.statistics.agreement import DISAGREES, NOT_TESTED, UNDECIDED
from fanin.theory.theories import THEORIES

DISAGREE = 1  # exit status
LEGEND = (
    "Each layer: the first theory's number, times what each further theory makes of it (x), times "
    "measured/highest, is measured. A verdict holds the layer against the highest theory: `agrees` "
    "within a factor of {margin:g}, `disagrees` (false alarms: {level:g} in the whole sweep), "
    "`needs N`: undecided, about N draws would tell; `theory unsure`: undecided, and theory's own "
    "sampling is too coarse for any number of draws."
)
JUDGED = (
    *("theory", "log_sd", "kind", "test", "log_ratio", "log_ratio_se", "p_holm", "verdict"),
    *("needed", "step", "step_se", "step_p_holm", "step_verdict", "sd_ratio", "spread_p_holm"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for every setting of a sweep, then what was found in words."""
    asked = _parser().parse_args(argv)
    console = plain_console()
    with exit_on_error(OSError):
        results = load(asked.name, asked.results)
        with prediction_progress() as on_predicted:
            comparisons = compare(
                results, again=asked.again, workers=asked.workers, on_predicted=on_predicted
            )
        _check_measured(comparisons, asked.quantity, asked.image)
        rows = verdicts(comparisons, margin=asked.margin, level=asked.level)
        if asked.csv:
            frame = as_frame(comparisons, rows, asked.quantity, asked.image)
            frame.to_csv(asked.csv, index=False)
    console.print(LEGEND.format(margin=asked.margin, level=asked.level), soft_wrap=True)
    for n, comparison in enumerate(comparisons):
        console.print(shown(comparison, rows[rows["setting"] == n], asked.quantity, asked.image))
    covered = intervals(comparisons, rows)
    told = summary(comparisons, rows, covered, margin=asked.margin, level=asked.level)
    for line in [*told, *findings(results, comparisons)]:
        console.print(line, soft_wrap=True)
    if (rows["verdict"] == DISAGREES).any():
        raise SystemExit(DISAGREE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.check",
        description="Measured against predicted, layer by layer.",
        epilog="Exit status 1 where the highest theory that predicts a layer disagrees with it.",
    )
    add_sweep(parser)
    parser.add_argument("--quantity", default="preact_m2", help="shown; default: %(default)s")
    parser.add_argument(
        "--image", type=int, default=-1, help="shown: a probe image; -1: mean over the probe set"
    )
    parser.add_argument(
        "--margin",
        type=_above_one,
        default=1.1,
        help="a layer within this factor of its prediction agrees; default: %(default)s",
    )
    parser.add_argument(
        "--level",
        type=probability,
        default=0.05,
        help="chance of any false alarm in the whole sweep; default: %(default)s",
    )
    parser.add_argument("--csv", metavar="FILE", help="write what is shown there as well")
    parser.add_argument(
        "--again", action="store_true", help="predict anew what was predicted before"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that predict; default: %(default)s"
    )
    return parser


def _above_one(text: str) -> float:
    number = float(text)
    if not 1 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a factor above 1, such as 1.1")
    return number


def _check_measured(comparisons: Sequence[TheoryComparison], quantity: str, image: int) -> None:
    """There must be something to show: a quantity that layers have, of an image that was probed."""
    images: dict[str, set[int]] = {}
    for comparison in comparisons:
        draws = comparison.draws
        found = draws.loc[draws.layer > 0, ["quantity", "image"]].drop_duplicates()
        for name, index in found.itertuples(index=False):
            images.setdefault(str(name), set()).add(int(index))
    if quantity not in images:
        raise FaninError(f"--quantity {quantity}: not measured; {nearest(quantity, images)}")
    if image not in images[quantity]:
        there = ", ".join(map(str, sorted(images[quantity])))
        raise FaninError(f"--image {image}: {quantity} was not measured for it; valid: {there}")


def shown(comparison: TheoryComparison, judged: pd.DataFrame, quantity: str, image: int) -> Group:
    """One setting for the terminal: its label, its table, and why there is no prediction.

    Parameters
    ----------
    judged
        The setting's rows of `analysis.verdicts.verdicts`.
    quantity, image
        Of the `layers` table.
    """
    frame = table(comparison, quantity, image)
    title = f"{comparison.setting.label}   ({quantity}, {frame['draws'].max()} draws)"
    reason = [] if comparison.unpredicted is None else [Text(comparison.unpredicted)]
    return Group(Text(title), as_table(frame, _only(judged, quantity, image)), *reason)


def as_table(frame: pd.DataFrame, judged: pd.DataFrame) -> Table:
    """A setting's layers: measured, the theories, what is left, and the verdict.

    Parameters
    ----------
    frame
        From `analysis.comparison.table`.
    judged
        The verdicts on those layers, if there are any.
    """
    theories = [theory for theory in THEORIES if frame[theory].notna().any()]
    words = _words(judged)
    layers = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    headings = ["layer", "name", "measured", "se", *theories[:1]]
    headings += [f"x\n{theory}" for theory in theories[1:]]
    headings += [f"measured\n/{theory}" for theory in theories[-1:]]
    headings += ["sd\n/log_sd", "verdict"] if words else []
    for heading in headings:
        justify: JustifyMethod = "left" if heading in ("name", "verdict") else "right"
        layers.add_column(heading, justify=justify, no_wrap=True)
    chain = _chain(frame, theories)
    for n, row in enumerate(frame.to_dict("records")):
        told = [str(row["layer"]), str(row["layer_name"])]
        told += [f"{row['measured']:.3g}", f"{row['se']:.1g}"]
        told += [f"{number:.3g}" for number in chain[n]]
        layers.add_row(*told, *words.get(row["layer"], ()))
    return layers


def as_frame(
    comparisons: Sequence[TheoryComparison], rows: pd.DataFrame, quantity: str, image: int
) -> pd.DataFrame:
    """All settings in one frame, the setting's words in front.

    Returns
    -------
    pandas.DataFrame
        `setting`, the columns of `table` and `decompose_gap` (`analysis.comparison`) and, of the
        verdicts, `JUDGED`.
    """
    frames = []
    for n, comparison in enumerate(comparisons):
        frame = table(comparison, quantity, image)
        mine = _only(rows[rows["setting"] == n], quantity, image)
        judged = mine.set_index("layer").reindex(columns=JUDGED).reindex(frame["layer"])
        parts = [frame, decompose_gap(frame, list(THEORIES)), judged.reset_index(drop=True)]
        frames.append(pd.concat(parts, axis=1).assign(setting=comparison.setting.label))
    return pd.concat(frames).set_index("setting").reset_index()


def _chain(frame: pd.DataFrame, theories: Sequence[str]) -> np.ndarray:
    """[layer, factor]: the lowest theory, each over the one below, measured over the highest."""
    if not theories:
        return np.empty((len(frame), 0))
    below = frame[list(theories)].ffill(axis=1).to_numpy(float)
    above = np.column_stack([frame[list(theories)].to_numpy(float)[:, 1:], frame["measured"]])
    with np.errstate(all="ignore"):
        return np.column_stack([below[:, 0], above / below])


def _words(judged: pd.DataFrame) -> dict[int, tuple[str, str]]:
    """By layer: measured to predicted spread, and the verdict."""
    words = {}
    for row in judged.to_dict("records"):
        told = {UNDECIDED: needed_in_words(row["needed"]), NOT_TESTED: row["kind"]}
        spread = "" if np.isnan(row["sd_ratio"]) else f"{row['sd_ratio']:.2f}"
        words[row["layer"]] = (spread, told.get(row["verdict"], row["verdict"]))
    return words


def _only(rows: pd.DataFrame, quantity: str, image: int) -> pd.DataFrame:
    return rows[(rows["quantity"] == quantity) & (rows["image"] == image)]


if __name__ == "__main__":
    main()
