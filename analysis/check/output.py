"""Output of `fanin check`: the summary, and a table for every setting."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from analysis.cli import prediction_progress
from analysis.coverage import coverage_by, interval_coverage
from analysis.load import Results
from analysis.predictions import main_image
from analysis.summary import describe_files, format_needed, summarize_sweep
from analysis.theory_comparison import (
    TheoryComparison,
    compare_to_theory,
    decompose_gap,
    layer_table,
)
from analysis.verdict_details import describe_verdicts
from analysis.verdicts import SIMULATED, compute_verdicts
from fanin.errors import FaninError, suggest
from fanin.statistics.agreement import AGREES, DISAGREES, NOT_TESTED, UNDECIDED
from fanin.theory.predict import THEORIES

LEGEND = (
    "measured: mean over the draws; se: its standard error. The first theory column is a "
    "prediction. `x THEORY` is the ratio of that theory's prediction to the one on its left, and "
    "measured/THEORY the ratio of measured to the last prediction; the product of these columns is "
    "measured. spread: standard deviation of log values over the draws, measured / predicted. "
    "method: how the last prediction was computed. The verdict compares measured with the last "
    "prediction: `agrees`: within a factor of {margin:g} (`simulated`: not counted as confirmed); "
    "`disagrees`: significantly different (probability of one or more false positives in the whole "
    "sweep: {level:g}); `undecided: needs N draws`: about N draws are needed to decide; "
    "`undecided: prediction error too large`: the sampling error of the prediction is too large "
    "for any number of draws."
)
VERDICT_COLUMNS = (
    *("theory", "method", "log_sd", "log_skew", "kind", "test"),
    *("log_ratio", "log_ratio_se", "p_holm"),
    *("verdict", "draws_needed", "step", "step_se", "step_p_holm", "step_verdict"),
    *("sd_ratio", "spread_p_holm"),
)
# Colors on a terminal, of verdicts in tables and of matches in sentences.
COLORS = {AGREES: "green", DISAGREES: "bold red", UNDECIDED: "yellow", NOT_TESTED: "dim"}
HIGHLIGHTS = {
    r"in [1-9]\d* of \d+ (settings|layers)|[1-9][\d,]* agree with theory": COLORS[AGREES],
    r"in [1-9]\d* others|[1-9][\d,]* are undecided": COLORS[UNDECIDED],
    r"layers disagree in [1-9]\d*|[1-9][\d,]* disagree\b|^Disagrees": COLORS[DISAGREES],
    r"\d[\d.,^]* times (as large as|smaller than) predicted": COLORS[DISAGREES],
}


def print_check(results: Results, console: Console, args: argparse.Namespace) -> bool:
    """Print the summary of a sweep, and with `--tables` a table for every setting.

    Return True if some layer disagrees with the highest theory that predicts it.
    """
    with prediction_progress() as on_predicted:
        comparisons = compare_to_theory(
            results, recompute=args.recompute, workers=args.workers, on_predicted=on_predicted
        )
    _check_measured(comparisons, args.quantity, args.image)
    rows = compute_verdicts(comparisons, margin=args.margin, level=args.level)
    if args.csv:
        frame = build_csv_frame(comparisons, rows, args.quantity, args.image)
        frame.to_csv(args.csv, index=False)
    by_method = coverage_by(comparisons, rows)
    bounds = {"margin": args.margin, "level": args.level}
    for sentence in summarize_sweep(results, comparisons, rows, by_method, **bounds):
        print_sentence(console, sentence)
    print_sentence(console, describe_files(results, tables=args.tables))
    if args.tables:
        console.print()
        intervals = interval_coverage(comparisons, rows)
        for sentence in describe_verdicts(comparisons, rows, intervals, by_method, **bounds):
            print_sentence(console, sentence)
        console.print()
        print_sentence(console, LEGEND.format(**bounds))
        for n, comparison in enumerate(comparisons):
            verdict_rows = rows[rows["setting"] == n]
            console.print(render_setting(comparison, verdict_rows, args.quantity, args.image))
    return bool((rows["verdict"] == DISAGREES).any())


def _check_measured(
    comparisons: Sequence[TheoryComparison], quantity: str, image: int | None
) -> None:
    """Raise FaninError if this quantity was not measured on this image in any layer."""
    images: dict[str, set[int]] = {}
    for comparison in comparisons:
        draws = comparison.draws
        measured = draws.loc[draws.layer > 0, ["quantity", "image"]].drop_duplicates()
        for name, index in measured.itertuples(index=False):
            images.setdefault(str(name), set()).add(int(index))
    if quantity not in images:
        raise FaninError(f"--quantity {quantity}: not measured; {suggest(quantity, images)}")
    if image is not None and image not in images[quantity]:
        valid = ", ".join(map(str, sorted(images[quantity])))
        raise FaninError(f"--image {image}: {quantity} was not measured on it; valid: {valid}")


def print_sentence(console: Console, sentence: str) -> None:
    """Print a sentence: a colored, wrapped list item on a terminal, one plain line in a pipe."""
    text = Text(sentence)
    for pattern, style in HIGHLIGHTS.items():
        text.highlight_regex(pattern, style)
    if console.is_terminal:
        item = Table.grid(padding=(0, 1))
        item.add_row("•", text)
        console.print(item, width=shutil.get_terminal_size().columns)
    else:
        console.print(text, soft_wrap=True)


def render_setting(
    comparison: TheoryComparison,
    verdict_rows: pd.DataFrame,
    quantity: str,
    image: int | None = None,
) -> Group:
    """Render one setting for the terminal: label, table, and the reason for a missing prediction.

    Parameters
    ----------
    comparison
        The setting.
    verdict_rows
        The setting's rows of `analysis.verdicts.compute_verdicts`.
    quantity, image
        Values of these columns of the `layers` table. None: the image of `main_image`.
    """
    image = main_image(comparison.predicted) if image is None else image
    frame = layer_table(comparison, quantity, image)
    of_image = "" if image < 0 else f", image {image}"
    draws = frame["draws"].max()
    title = f"{comparison.setting.label}   ({quantity}{of_image}, {draws} draws)"
    reason = [] if comparison.unpredicted is None else [Text(comparison.unpredicted)]
    layers = build_layer_table(frame, _select_rows(verdict_rows, quantity, image))
    return Group(Text(title), layers, *reason)


def build_layer_table(frame: pd.DataFrame, verdict_rows: pd.DataFrame) -> Table:
    """Build the table of a setting's layers: measured, theories, residual and verdict.

    Parameters
    ----------
    frame
        Output of `analysis.theory_comparison.layer_table`.
    verdict_rows
        Verdicts on those layers; may be empty.
    """
    theories = [theory for theory in THEORIES if frame[theory].notna().any()]
    verdict_texts = _verdict_texts(verdict_rows)
    layers = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    headings = ["layer", "name", "measured", "se", *theories[:1]]
    headings += [f"x\n{theory}" for theory in theories[1:]]
    headings += [f"measured\n/{theory}" for theory in theories[-1:]]
    headings += ["spread", "method", "verdict"] if verdict_texts else []
    for heading in headings:
        justify: JustifyMethod = "left" if heading in ("name", "method", "verdict") else "right"
        layers.add_column(heading, justify=justify, no_wrap=True)
    factors = _factors(frame, theories)
    for n, row in enumerate(frame.to_dict("records")):
        texts = [str(row["layer"]), str(row["layer_name"])]
        texts += [f"{row['measured']:.3g}", f"{row['se']:.1g}"]
        texts += [f"{number:.3g}" for number in factors[n]]
        layers.add_row(*texts, *verdict_texts.get(row["layer"], ()))
    return layers


def build_csv_frame(
    comparisons: Sequence[TheoryComparison],
    rows: pd.DataFrame,
    quantity: str,
    image: int | None = None,
) -> pd.DataFrame:
    """Join the tables of all settings into one frame.

    Parameters
    ----------
    comparisons
        All settings of a sweep.
    rows
        Output of `analysis.verdicts.compute_verdicts`.
    quantity, image
        As for `render_setting`.

    Returns
    -------
    pandas.DataFrame
        `setting` (its label), `image`, the columns of `layer_table` and `decompose_gap`
        (`analysis.theory_comparison`), and the verdict columns `VERDICT_COLUMNS`.
    """
    frames = []
    for n, comparison in enumerate(comparisons):
        shown = main_image(comparison.predicted) if image is None else image
        frame = layer_table(comparison, quantity, shown)
        setting_rows = _select_rows(rows[rows["setting"] == n], quantity, shown)
        by_layer = setting_rows.set_index("layer").reindex(columns=VERDICT_COLUMNS)
        verdict_rows = by_layer.reindex(frame["layer"]).reset_index(drop=True)
        parts = [frame, decompose_gap(frame, list(THEORIES)), verdict_rows]
        keys = {"setting": comparison.setting.label, "image": shown}
        frames.append(pd.concat(parts, axis=1).assign(**keys))
    return pd.concat(frames).set_index(["setting", "image"]).reset_index()


def _factors(frame: pd.DataFrame, theories: Sequence[str]) -> np.ndarray:
    """Return the factors of each layer's measured moment, [layer, factor].

    They are the lowest theory's value, each further theory's value divided by that of the theory
    before, and the measured value divided by that of the highest theory.
    """
    if not theories:
        return np.empty((len(frame), 0))
    lower = frame[list(theories)].ffill(axis=1).to_numpy(float)
    upper = np.column_stack([frame[list(theories)].to_numpy(float)[:, 1:], frame["measured"]])
    with np.errstate(all="ignore"):
        return np.column_stack([lower[:, 0], upper / lower])


def _verdict_texts(verdict_rows: pd.DataFrame) -> dict[int, tuple[str, str, Text]]:
    """Map each layer to three texts: measured / predicted spread, method, and verdict."""
    texts = {}
    for row in verdict_rows.to_dict("records"):
        verdict = row["verdict"]
        details = {UNDECIDED: format_needed(row["draws_needed"]), NOT_TESTED: row["kind"]}
        if row["method"] == SIMULATED:
            details[AGREES] = f"{AGREES} ({SIMULATED})"
        spread = "" if np.isnan(row["sd_ratio"]) else f"{row['sd_ratio']:.2f}"
        verdict_text = Text(details.get(verdict, verdict), style=COLORS[verdict])
        texts[row["layer"]] = (spread, row["method"], verdict_text)
    return texts


def _select_rows(rows: pd.DataFrame, quantity: str, image: int) -> pd.DataFrame:
    return rows[(rows["quantity"] == quantity) & (rows["image"] == image)]
