"""Measured against predicted, layer by layer: `python -m analysis.check NAME`.

Exit status 1 where the highest rung that predicts a layer disagrees with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from analysis.arguments import chance
from analysis.comparison import Comparison, compare
from analysis.findings import findings
from analysis.intervals import intervals
from analysis.layer_table import LEGEND, as_frame, shown
from analysis.load import load
from analysis.progress import predicting
from analysis.summary import summary
from analysis.verdicts import verdicts
from fanin.errors import UNUSABLE, FaninError, nearest, warnings_as_lines
from fanin.statistics.agreement import DISAGREES

DISAGREE = 1  # exit status
UNBOUNDED = 10_000  # characters


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for every setting of a sweep, then what was found in words."""
    asked = _parser().parse_args(argv)
    # No markup, for labels may hold brackets; rather a line too long than a number cut short.
    console = Console(markup=False, highlight=False, width=UNBOUNDED)
    try:
        with warnings_as_lines():
            results = load(asked.name, asked.results)
        with predicting() as on_predicted:
            comparisons = compare(
                results, again=asked.again, workers=asked.workers, on_predicted=on_predicted
            )
        _check_measured(comparisons, asked.quantity, asked.image)
        rows = verdicts(comparisons, margin=asked.margin, level=asked.level)
        if asked.csv:
            frame = as_frame(comparisons, rows, asked.quantity, asked.image)
            frame.to_csv(asked.csv, index=False)
    except (FaninError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(UNUSABLE) from None
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
        epilog="Exit status 1 where the highest rung that predicts a layer disagrees with it.",
    )
    parser.add_argument("name", metavar="NAME", help="the sweep's folder under results/")
    parser.add_argument("--results", default="results", help="where sweeps are kept")
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
        type=chance,
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


def _check_measured(comparisons: Sequence[Comparison], quantity: str, image: int) -> None:
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


if __name__ == "__main__":
    main()
