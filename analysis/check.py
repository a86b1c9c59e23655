"""Measured against predicted, layer by layer: `python -m analysis.check NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table

from analysis.findings import findings
from analysis.load import Results, load
from analysis.measured import Comparison, compare, predictions_of, table
from experiments.errors import UNUSABLE, FaninError, nearest
from experiments.sweep.store.parquet import write_part


def check(results: Results) -> list[Comparison]:
    """Compare every setting of a sweep with theory, and keep the predictions in its folder."""
    comparisons = compare(results)
    predicted = predictions_of(comparisons)
    if not predicted.empty:
        # One part, replaced at every check: predictions follow from the configs alone.
        words = predicted.select_dtypes(["object", "string"]).columns
        stored = predicted.astype(dict.fromkeys(words, "category"))
        write_part(
            results.folder,
            "predictions",
            "predictions",
            pa.Table.from_pandas(stored, preserve_index=False),
        )
    return comparisons


def as_table(comparison: Comparison, quantity: str, image: int) -> Table:
    """One setting's comparison for the terminal."""
    frame = table(comparison, quantity, image)
    draws = int(frame.draws.max()) if len(frame) else 0
    shown = Table(
        title=f"{comparison.setting.label}   ({quantity}, {draws} draws)",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in frame.columns.drop("draws"):
        heading = column.replace("layer_", "").replace("/", "\n/")
        justify: JustifyMethod = "left" if column == "layer_name" else "right"
        shown.add_column(heading, justify=justify, no_wrap=True)
    for layer, name, measured, se, *theory in frame.drop(columns="draws").itertuples(index=False):
        numbers = [f"{measured:.3g}", f"{se:.1g}", *(f"{number:.3g}" for number in theory)]
        shown.add_row(str(layer), str(name), *numbers)
    if comparison.unpredicted:
        shown.caption = comparison.unpredicted
    return shown


def as_frame(comparisons: Sequence[Comparison], quantity: str, image: int) -> pd.DataFrame:
    """All settings in one frame, the setting's words in front."""
    return pd.concat(
        [
            table(c, quantity, image).assign(setting=c.setting.label).set_index("setting")
            for c in comparisons
        ]
    ).reset_index()


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for every setting of a sweep, then what was found in words."""
    parser = argparse.ArgumentParser(prog="python -m analysis.check", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="the sweep's folder under results/")
    parser.add_argument("--results", default="results", help="where sweeps are kept")
    parser.add_argument("--quantity", default="preact_m2", help="default: %(default)s")
    parser.add_argument(
        "--image", type=int, default=-1, help="a probe image; -1: mean over the probe set"
    )
    parser.add_argument("--csv", metavar="FILE", help="write the whole comparison there as well")
    asked = parser.parse_args(argv)
    console = Console(markup=False, highlight=False)  # labels may hold brackets
    try:
        results = load(asked.name, asked.results)
        comparisons = check(results)
        _check_measured(comparisons, asked.quantity, asked.image)
        if asked.csv:
            as_frame(comparisons, asked.quantity, asked.image).to_csv(asked.csv, index=False)
    except (FaninError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(UNUSABLE) from None
    for comparison in comparisons:
        console.print(as_table(comparison, asked.quantity, asked.image))
    for line in findings(results, comparisons):
        console.print(line, soft_wrap=True)


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
