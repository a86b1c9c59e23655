"""Units that begin equal: whether training tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.inf_loss.parts import cells_of
from analysis.figures.study import Headline
from analysis.load import Results

STARTS = {
    "zeros": "zero weights and biases",
    "zeros, biases": "zero weights, random biases",
    "constant": "all weights the same number",
    "he_normal": "He, for comparison",
}


def spreads(results: Results) -> pd.DataFrame:
    """By start and activation, how far the hidden units of a layer differ from each other.

    Returns
    -------
    pandas.DataFrame
        `start`, `activation`, `spread` (largest over hidden layers and probe images: standard
        deviation over units / root mean square; 0 where all are 0), `weights_zero` (are all of
        them), `accuracy`, `steps`.
    """
    cells, layers = cells_of(results, "symmetry"), results.layers
    rows = []
    for _, cell in cells.iterrows():
        steps = int(cell["train.steps"])
        mine = layers[layers["cell_id"].astype(str) == str(cell["cell_id"])]
        after = mine[mine["step"] == steps]
        hidden = (after["layer"] > 0) & (after["layer"] < cell["model.depth"])
        wide = after[hidden & (after["image"] >= 0)].pivot_table(
            index=["layer", "image"], columns="quantity", values="value", observed=True
        )
        # Each image by itself: what differs over units, and not over images.
        ratio = np.sqrt(wide["preact_var"] / wide["preact_m2"].where(wide["preact_m2"] > 0, np.inf))
        weights = after[after["quantity"] == "weight_m2"].set_index("layer")["value"]
        rows.append(
            {
                "start": _start(cell),
                "activation": str(cell["activation"]),
                "spread": float(ratio.max()),
                "weights_zero": bool((weights == 0).all()),
                "accuracy": float(cell["test_accuracy"]),
                "steps": steps,
            }
        )
    return pd.DataFrame(rows)


def _start(cell: pd.Series) -> str:
    named = str(cell["init"])
    has_biases = "init.bias.std" in cell.index and cell["init.bias.std"] > 0
    return f"{named}, biases" if named == "zeros" and has_biases else named


def headlines(found: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """Of each start, whether its units stayed equal."""
    keeps = float(criterion["keeps"])
    for start, words in STARTS.items():
        mine = found[found["start"] == start]
        if mine.empty:
            continue
        equal = mine["spread"] < keeps
        claimed = {
            "zeros": ("equal for ever (usually said of any zero init)", bool(equal.all())),
            "zeros, biases": ("false: not equal, the biases tell them apart", not equal.any()),
            "constant": ("equal for ever", bool(equal.all())),
        }.get(start, ("nothing is claimed", None))
        yield Headline(
            f"{words}: spread over a hidden layer's units, as a share of their size, after "
            f"{int(mine['steps'].iloc[0])} steps",
            claimed[0],
            _shown(mine, "spread", ".1g"),
            claimed[1],
        )
    zeros = found[found["start"] == "zeros"]
    for activation, expected in (("relu", True), ("tanh", True), ("sigmoid", False)):
        mine = zeros[zeros["activation"] == activation]
        if mine.empty:
            continue
        yield Headline(
            f"zero weights and biases, {activation}: are all weights 0 after training",
            "yes: only the last layer's bias moves" if expected else "no: sigmoid(0) is 1/2",
            "yes" if bool(mine["weights_zero"].all()) else "no",
            bool(mine["weights_zero"].all()) == expected,
        )
    yield Headline(
        "test accuracy after that",
        "nothing is claimed",
        "; ".join(
            f"{words}: {_shown(found[found['start'] == start], 'accuracy', '.2f')}"
            for start, words in STARTS.items()
            if (found["start"] == start).any()
        ),
        None,
    )


def _shown(mine: pd.DataFrame, column: str, form: str) -> str:
    pairs = zip(mine["activation"], mine[column], strict=True)
    return ", ".join(f"{value:{form}} ({name})" for name, value in pairs)
