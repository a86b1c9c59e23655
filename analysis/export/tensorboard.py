"""Export of curves, layer quantities and final metrics as TensorBoard runs, one per cell."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.export.tables import LABEL, with_labels
from analysis.load import Results
from experiments.atomic_write import writing
from fanin.errors import FaninError
from fanin.probes.measure import WHOLE_NETWORK

SUFFIX = ".fanin"  # of event files, so that a later export deletes only those of an earlier one
FINAL_METRICS = ("test_accuracy", "test_loss")
PROBE_SET = -1  # value of the column `image` for the mean over the probe set
INSTALL = (
    "--to tensorboard needs the package tensorboard, which is not installed; install it with: "
    "pip install 'tensorboard>=2.16'"
)


def require_tensorboard() -> None:
    """Raise an error that says what to install if TensorBoard is missing.

    Raises
    ------
    FaninError
        The package tensorboard is not installed.
    """
    try:
        importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise FaninError(INSTALL) from None


def export_runs(results: Results, folder: Path) -> list[Path]:
    """Write a TensorBoard run for each cell, and return the folders of the runs.

    Parameters
    ----------
    results
        The sweep.
    folder
        Log directory for TensorBoard. Event files of an earlier export are deleted.
    """
    from torch.utils.tensorboard import SummaryWriter

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.rglob(f"events.out.tfevents.*{SUFFIX}"):
            path.unlink()
    cells = with_labels(results)
    curves, layers = _by_cell(results.curves), _by_cell(trained_network(results.layers))
    paths = []
    for row, name in zip(cells.to_dict("records"), run_names(cells), strict=True):
        paths.append(folder / name)
        cell = str(row["cell_id"])
        with writing(paths[-1]), SummaryWriter(str(paths[-1]), filename_suffix=SUFFIX) as writer:
            for tag, step, value in scalars(curves.get(cell), layers.get(cell), row):
                writer.add_scalar(tag, value, step)
    return paths


def run_names(cells: pd.DataFrame) -> list[str]:
    """Return a folder name for each cell: its label, followed by its id if others have the same."""
    counts = Counter(cells[LABEL])
    pairs = zip(cells[LABEL], cells["cell_id"].astype(str), strict=True)
    names = (label if counts[label] == 1 else f"{label} {cell}" for label, cell in pairs)
    return [name.replace("/", "_") for name in names]


def trained_network(layers: pd.DataFrame) -> pd.DataFrame:
    """Select the measurements of the trained network (draw 0), one value per layer and quantity.

    Where a quantity has a mean over the probe set, that; otherwise its first image.
    """
    if layers.empty:
        return layers
    rows = layers[layers["draw"] == 0]
    keys = ["cell_id", "quantity", "layer", "step"]
    first = rows.groupby(keys, observed=True)["image"].transform("min")  # PROBE_SET sorts first
    return rows[rows["image"] == first]


def scalars(
    curves: pd.DataFrame | None, layers: pd.DataFrame | None, cell: Mapping[str, Any]
) -> Iterator[tuple[str, int, float]]:
    """Yield (tag, step, value) of a cell: its curves, its layer quantities, its final metrics."""
    last_step = 0
    if curves is not None:
        last_step = int(curves["step"].max())
        for metric, step, value in curves[["metric", "step", "value"]].itertuples(index=False):
            yield f"curves/{metric}", int(step), float(value)
    if layers is not None:
        columns = ["quantity", "layer", "layer_name", "step", "value"]
        for quantity, layer, name, step, value in layers[columns].itertuples(index=False):
            place = "network" if layer == WHOLE_NETWORK else f"{layer:02d}_{name}"
            yield f"{quantity}/{place}", int(step), float(value)
    for metric in FINAL_METRICS:
        if metric in cell and pd.notna(cell[metric]):
            yield f"final/{metric}", last_step, float(cell[metric])


def _by_cell(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    if table.empty:
        return {}
    return {str(cell): rows for cell, rows in table.groupby("cell_id", observed=True)}
