"""Why a CNN's outputs are huge: seven suspects, each alone and with each remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.ablation import NOTHING, fields, measured
from analysis.figures.large_outputs_drawn import before_training, heat_map, how_it_ended, size
from analysis.figures.large_outputs_start import starts
from analysis.figures.study import Headline, Study
from analysis.load import Results
from fanin.errors import FaninError

CLAIM = (
    "Huge outputs come from the weights' scale, the input's scale, or steps that are too large; "
    "what undoes the cause cures them, and a final activation only hides them."
)
HIDES = "final activation"  # with it the first suspect is the reference


def study(results: Results, criterion: Mapping[str, Any]) -> Study:
    """Say of each suspect what it does, whether theory sees it coming, and what cures it.

    Parameters
    ----------
    results
        Of the sweep `large_outputs`.
    criterion
        The suspects and remedies (`analysis.figures.ablation`), `reference`, `huge` and `cures` as
        claimed, and the bounds `factor`, `accuracy`, `explained` and `se`; the sweep's YAML says
        what each means.

    Raises
    ------
    FaninError
        A suspect alone, or a reference, was not run yet.
    """
    if results.cells.empty or results.layers.empty:
        raise FaninError(f"{results.folder.root}: no network was trained yet")
    table = outcomes(results, criterion)
    first = starts(results, table, criterion)
    cells = results.cells
    caption = (
        f"A plain CNN of {int(cells['model.depth'].iloc[0])} layers, "
        f"{int(cells['model.width'].iloc[0])} channels, ReLU, on "
        f"{int(cells['data.n_train'].iloc[0])} images of {cells['data'].mode().iloc[0]}, "
        f"{int(cells['train.steps'].iloc[0])} steps of SGD; {cells['seed'].nunique()} seeds a "
        "field. Size of the outputs: root mean square of the logits over "
        f"{int(cells['probe.size'].iloc[0])} images. Map: the largest of all seeds and probed "
        "steps (≥: a seed diverged after its last probe), in brackets what is left of it after the "
        "final activation; below it how many seeds diverged (div.), and the accuracy of the worst "
        "of the others (R²: a regression's explained share of the targets' variance). ✓: healthy, "
        "by the sweep's "
        "criterion. Hatched: the remedy takes the suspect away, so it is the healthy network (of "
        "the regression target: the same CNN asked for classes of its images). "
        f"Second figure: the same networks before training, {int(first['draws'].min())} draws of "
        "the weights each, and where training took them."
    )
    figures = {
        "large_outputs": heat_map(table),
        "large_outputs_before": before_training(first, table[table["remedy"] == NOTHING]),
    }
    return Study(CLAIM, figures, caption, tuple(_headlines(table, first, criterion)))


def outcomes(results: Results, criterion: Mapping[str, Any]) -> pd.DataFrame:
    """A row per suspect and remedy, over all seeds.

    Returns
    -------
    pandas.DataFrame
        `suspect`, `remedy`, `kind`, `cell_ids` (`analysis.figures.ablation.Field`); `seeds`,
        `start`, `largest` and `end` (the largest over seeds), `handed_out`, `diverged` (how many),
        `accuracy`, `explained` (the worst), `huge` (in some seed) and `healthy` (in every
        seed); `each`, sizes and accuracy of all seeds, sorted.
    """
    cells = measured(results)
    found = fields(results, criterion)
    ids = {(field.suspect, field.remedy): list(field.cell_ids) for field in found}
    first = next(iter(criterion["suspects"]))
    rows = []
    for field in found:
        other = criterion.get("reference", {}).get(field.suspect)
        of = (field.suspect, other) if other else (first, HIDES)
        # What a remedy costs the healthy network is no harm that the suspect does.
        beside = ids[of] if other else ids[first, field.remedy]
        if not (ids[of] and ids[field.suspect, NOTHING] and beside):
            raise FaninError(f"{results.folder.root}: {field.suspect}, alone and healthy: not run")
        mine = cells.loc[list(field.cell_ids)]
        bound = criterion["factor"] * cells.loc[ids[of], "largest"].max()
        right = cells.loc[beside, "accuracy"].mean() - criterion["accuracy"]
        row = {"suspect": field.suspect, "remedy": field.remedy, "kind": field.kind}
        told = _over_seeds(mine, bound, right, criterion["explained"])
        rows.append({**row, "cell_ids": field.cell_ids} | told)
    return pd.DataFrame(rows)


def _over_seeds(
    cells: pd.DataFrame, bound: float, right: float, explained: float
) -> dict[str, Any]:
    answers = (cells["accuracy"] >= right) | (cells["explained"] >= explained)
    return {
        "seeds": len(cells),
        "headed": bool(cells["headed"].any()),
        **{key: cells[key].max() for key in ("start", "largest", "end", "handed_out")},
        "diverged": int(cells["diverged"].sum()),
        "accuracy": cells["accuracy"].min(),
        "explained": cells["explained"].min(),
        "huge": bool((cells["largest"] > bound).any()),
        "healthy": len(cells) > 0
        and bool((~cells["diverged"] & (cells["end"] <= bound) & answers).all()),
        "each": tuple(sorted(cells[key]) for key in ("start", "largest", "end", "accuracy")),
    }


def _headlines(
    table: pd.DataFrame, first: pd.DataFrame, criterion: Mapping[str, Any]
) -> Iterator[Headline]:
    yield from _hiding(table)
    for suspect in criterion["suspects"]:
        alone = table[(table["suspect"] == suspect) & (table["remedy"] == NOTHING)].iloc[0]
        claimed = suspect in criterion["huge"]
        yield Headline(
            f"{suspect}, alone: makes the outputs huge",
            "true" if claimed else "false",
            ended(alone),
            bool(alone["huge"]) == claimed,
        )
    for suspect, claims in criterion["cures"].items():
        rows = table[(table["suspect"] == suspect) & table["kind"].isin(["own", "undone"])]
        cures = rows[rows["healthy"] & (rows["remedy"] != NOTHING)]["remedy"].tolist()
        yield Headline(
            f"{suspect}: cured by", _listed(claims), _listed(cures), set(cures) == set(claims)
        )
    yield from _foreseen(first, criterion)


def _hiding(table: pd.DataFrame) -> Iterator[Headline]:
    """What a softmax at the end changes, where the loss has one inside anyway."""
    first, remedies = table["suspect"].iloc[0], table.set_index(["suspect", "remedy"])
    bare, softmax = remedies.loc[(first, NOTHING)], remedies.loc[(first, HIDES)]
    yield Headline(
        "no final activation makes the outputs huge: logits without and with a softmax at the end",
        "false: the same logits to the bit, as the loss applies a softmax in any case",
        f"{size(bare['end'])} and {size(softmax['end'])}, "
        f"accuracy {bare['accuracy']:.1%} and {softmax['accuracy']:.1%}",
        bool(bare["each"] == softmax["each"]),
    )
    hidden = table[(table["remedy"] == HIDES) & (table["kind"] == "own")].iloc[1:]
    cured = hidden[hidden["healthy"] & ~_alone(table, hidden)]
    worst = hidden.sort_values("largest").iloc[-1]
    yield Headline(
        "a final activation cures some suspect that does harm",
        "false: it bounds what is seen, not the logits",
        f"cures {_listed(cured['suspect'].tolist())}; logits up to {size(worst['largest'])} "
        f"({worst['suspect']}) still come out as {size(worst['handed_out'])}",
        cured.empty,
    )


def _alone(table: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Whether each row's suspect is healthy without any remedy."""
    alone = table[table["remedy"] == NOTHING].set_index("suspect")["healthy"]
    return rows["suspect"].map(alone).astype(bool)


def _foreseen(first: pd.DataFrame, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """Before training: predicted sizes beside measured ones."""
    for row in first.to_dict("records"):
        if row["like"]:
            continue
        off = abs(row["log_mean"] - row["log_predicted"]) / row["log_se"]
        yield Headline(
            f"{row['suspect']}: size of the outputs before training, typical draw",
            f"{size(np.exp(row['log_predicted'] / 2))}, theory",
            f"{size(np.exp(row['log_mean'] / 2))} ({row['draws']} draws; off by {off:.1f} se)",
            bool(off <= criterion["se"]),
        )
    unseen = [row["suspect"] for row in first.to_dict("records") if row["like"]]
    yield Headline(
        "invisible before training, the first outputs are the healthy network's",
        _listed(unseen),
        _listed([s for s, same in zip(first["suspect"], first["same"], strict=True) if same]),
        bool((first["same"] == (first["like"] != "")).all()),
    )


def ended(row: Mapping[str, Any]) -> str:
    """How a suspect with a remedy ended, in words."""
    least = "at least" if row["diverged"] else "up to"
    word = "huge" if row["huge"] else "not huge"
    return f"{word}: {least} {size(row['largest'])}; {how_it_ended(row)}"


def _listed(names: list[str]) -> str:
    return "; ".join(names) or "none"
