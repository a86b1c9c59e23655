"""Predictions for the settings of a sweep, computed once and stored in the sweep's folder.

The predictions of a setting are one file of the `predictions` table, written as soon as they are
computed. The file records a fingerprint of the code; a changed fingerprint causes a recomputation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

import experiments
import fanin.theory
from analysis.settings import Setting
from experiments.atomic_write import writing
from experiments.config.identity import flatten
from experiments.config.instantiate import TARGET
from experiments.config.trust import blocked_target
from experiments.inputs import prepared, probe_images
from experiments.schema import Cell, build_cell
from experiments.sweep.store.parquet import read_part, write_part
from experiments.sweep.store.paths import SweepFolder
from experiments.training.cpu_performance import keep_freed_memory
from fanin.errors import DataError, FaninError
from fanin.inits import set_scalars, weight_layers
from fanin.models import use_batch_statistics
from fanin.theory.field import couples_images
from fanin.theory.graph.tracer import graph_tracer
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import declared_moments
from fanin.theory.predict import THEORIES, applicable_theories, predict_moments
from fanin.theory.prediction import MEAN_OVER_IMAGES

TABLE = "predictions"
FINGERPRINT_KEY = b"fanin.theory"  # key in the Parquet metadata
SOURCES = (fanin, experiments)  # theory, init declarations and data
LIBRARIES = ("numpy", "scipy", "torch")
COVERED_PACKAGES = ("fanin.", "experiments.", "torch.")  # code that the fingerprint covers
MAX_WHOLE_SET = 8  # images in a probe set that is predicted as a whole beside single images of it
OnPredicted = Callable[[int, int], None]
"""Callback with the number of predicted settings and the number of all settings."""


@dataclass(frozen=True)
class SettingPrediction:
    """Predictions for one setting.

    Attributes
    ----------
    frame
        Rows of the `predictions` table without the column `cell_id`; empty if no theory applies.
    reason
        Reason for a missing prediction, or None.
    """

    frame: pd.DataFrame
    reason: str | None = None


def predict_settings(
    folder: SweepFolder,
    settings: Sequence[Setting],
    *,
    recompute: bool = False,
    workers: int = 1,
    on_predicted: OnPredicted = lambda done, total: None,
    keep_others: bool = False,
    whole_set: bool | None = None,
) -> list[SettingPrediction]:
    """Predict every setting; reuse stored predictions of the same code.

    Parameters
    ----------
    folder
        Paths of the sweep. Its `predictions` table is updated; stored predictions of settings that
        are not in `settings` are deleted unless `keep_others`.
    settings
        The settings to predict.
    recompute
        Ignore stored predictions.
    workers
        Number of processes. Each uses one thread, so results do not depend on their number.
    on_predicted
        Called after each setting.
    keep_others
        Keep stored predictions of other settings. Set it if `settings` is only a part of the sweep.
    whole_set
        As for `predict_cell`.

    Returns
    -------
    list of SettingPrediction
        In the order of the settings.
    """
    fingerprint = theory_fingerprint()
    predictions: dict[int, SettingPrediction] = {}
    for n, setting in enumerate(settings):
        stored = None if recompute else _load_stored(folder, setting, fingerprint)
        if stored is None:
            continue
        has_mean = stored["image"] == MEAN_OVER_IMAGES
        if not (_predicts_mean(setting.config) if whole_set is None else whole_set):
            predictions[n] = SettingPrediction(stored[~has_mean].reset_index(drop=True))
        elif has_mean.any():
            predictions[n] = SettingPrediction(stored)
    for n, setting in enumerate(settings):
        if target := blocked_target(setting.config):
            reason = f"not predicted: {target} is not imported without --trust"
            predictions[n] = SettingPrediction(pd.DataFrame(), reason)
    on_predicted(len(predictions), len(settings))
    missing = [n for n in range(len(settings)) if n not in predictions]
    for n, prediction in _predict_all({n: settings[n].config for n in missing}, workers, whole_set):
        predictions[n] = prediction
        _store(folder, settings[n], prediction.frame, fingerprint)
        on_predicted(len(predictions), len(settings))
    if not keep_others:
        _delete_stale(folder, {_stem(setting) for setting in settings})
    return [predictions[n] for n in range(len(settings))]


@cache
def theory_fingerprint() -> str:
    """Return a fingerprint of the code that predictions depend on.

    It covers every Python file of `fanin` and `experiments`, and the versions of the numerical
    libraries. An edit that changes no prediction also changes the fingerprint; that costs only a
    recomputation.
    """
    digest = hashlib.sha256()
    for package in SOURCES:
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {version(library)}\0".encode())
    return digest.hexdigest()[:16]


def _stem(setting: Setting) -> str:
    return setting.cell_ids[0]


def _load_stored(folder: SweepFolder, setting: Setting, fingerprint: str) -> pd.DataFrame | None:
    """Return the stored rows, or None unless the same code wrote them for the same cells."""
    path = folder.table(TABLE) / f"{_stem(setting)}.parquet"
    if _uses_user_code(setting.config) or not path.exists():
        return None
    try:
        part = read_part(path)
    except DataError:  # damaged: recompute
        return None
    if (part.schema.metadata or {}).get(FINGERPRINT_KEY) != fingerprint.encode():
        return None
    frame: pd.DataFrame = part.to_pandas(use_threads=False)  # see `decode`
    if set(frame["cell_id"].unique()) != set(setting.cell_ids):
        return None  # cells were added to the sweep
    first_cell = frame[frame["cell_id"] == _stem(setting)].drop(columns="cell_id")
    return first_cell.reset_index(drop=True)


def _uses_user_code(config: Mapping[str, Any]) -> bool:
    """Return True if the config uses user code, which the fingerprint does not cover."""
    targets = [str(v) for key, v in flatten(config) if key.endswith(TARGET)]
    return not all(target.startswith(COVERED_PACKAGES) for target in targets)


def _store(folder: SweepFolder, setting: Setting, frame: pd.DataFrame, fingerprint: str) -> None:
    if frame.empty:
        _delete(folder.table(TABLE) / f"{_stem(setting)}.parquet")
        return
    text_columns = ["cell_id", *frame.select_dtypes(["object", "string"]).columns]
    rows = pd.concat([frame.assign(cell_id=cell) for cell in setting.cell_ids], ignore_index=True)
    rows = rows[["cell_id", *frame.columns]].astype(dict.fromkeys(text_columns, "category"))
    part = pa.Table.from_pandas(rows, preserve_index=False)
    metadata = {**(part.schema.metadata or {}), FINGERPRINT_KEY: fingerprint.encode()}
    write_part(folder, TABLE, _stem(setting), part.replace_schema_metadata(metadata))


def _delete_stale(folder: SweepFolder, stems: set[str]) -> None:
    """Delete files of the `predictions` table that belong to no current setting."""
    for path in folder.table(TABLE).glob("*.parquet"):
        if path.stem not in stems:
            _delete(path)


def _delete(path: Path) -> None:
    with writing(path):
        path.unlink(missing_ok=True)


def _predict_all(
    configs: Mapping[int, Mapping[str, Any]], workers: int, whole_set: bool | None
) -> Iterator[tuple[int, SettingPrediction]]:
    """Yield (index, prediction) in the order of completion."""
    if min(workers, len(configs)) < 2:
        with _one_thread():
            for n, config in configs.items():
                yield n, _predict(config, whole_set)
        return
    # Spawn, because a fork of a process with torch threads may hang.
    with ProcessPoolExecutor(
        min(workers, len(configs)), get_context("spawn"), torch.set_num_threads, (1,)
    ) as pool:
        futures = {pool.submit(_predict, config, whole_set): n for n, config in configs.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise FaninError(
                "A prediction process ended unexpectedly (out of memory?). Finished predictions "
                "are stored; run the same command with fewer --workers to continue."
            ) from None


def _predict(config: Mapping[str, Any], whole_set: bool | None) -> SettingPrediction:
    keep_freed_memory()  # theory allocates many tensors of equal sizes
    try:
        return SettingPrediction(predict_cell(config, whole_set=whole_set))
    except UnpredictableLayer as error:
        return SettingPrediction(pd.DataFrame(), str(error))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def predict_cell(
    config: Mapping[str, Any], theories: Sequence[str] = THEORIES, *, whole_set: bool | None = None
) -> pd.DataFrame:
    """Predict the probe measurements of a cell at initialization with every theory that applies.

    Time is proportional to the number of images, and the mean over a set tests nothing that its
    images do not test. So this mean is predicted if no image is reported individually, or if the
    set has at most `MAX_WHOLE_SET` images.

    Parameters
    ----------
    config
        A validated cell config. Its data is loaded, because theory starts from real images.
    theories
        Theories from the lowest to the highest. A theory without a formula for some layer (such as
        a group norm, or a field that is too large) is skipped.
    whole_set
        Predict the mean over the probe set. None decides as described above.

    Returns
    -------
    pandas.DataFrame
        Rows of the `predictions` table without the column `cell_id`: for each image of
        `probe.images`, and for the mean over the probe set (image -1) if it is predicted.

    Raises
    ------
    UnpredictableLayer
        No theory applies, for example because the init declares no weight moments (LSUV).
    """
    cell = build_cell(config)
    images, reported = _images(cell), list(cell.probe.images)
    if whole_set is None:
        whole_set = _predicts_mean(config)
    model = cell.network().double().eval()
    use_batch_statistics(model)
    # The other images of a batch that is normalized together change the reported ones.
    every = whole_set or couples_images(model)
    indices = list(range(len(images))) if every else reported
    moments = declared_moments(model, cell.init)
    set_scalars(model, cell.init)
    frames: list[pd.DataFrame] = []
    for theory in applicable_theories(model, tuple(images.shape[1:]), theories):
        try:
            frames.append(
                predict_moments(
                    *(model, moments, images[indices], (theory,)),
                    individual=reported if every else None,
                    mean=whole_set,
                )
            )
        except UnpredictableLayer:
            if not frames:
                raise
    frame = _probed_rows(pd.concat(frames, ignore_index=True), cell, model, images[indices])
    frame["image"] = frame["image"].map(
        dict(enumerate(indices)) | {MEAN_OVER_IMAGES: MEAN_OVER_IMAGES}
    )
    probed = frame.image.isin([MEAN_OVER_IMAGES, *reported]) & frame.value.notna()
    return frame[probed].reset_index(drop=True)


def _probed_rows(frame: pd.DataFrame, cell: Cell, model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Keep the layers that the probe measures, and number them as the probe does.

    Predictions of a graph also have rows for sums and normalizations.
    """
    if cell.probe.sums:
        names = [node.name for node in graph_tracer(model, images).nodes]
    else:
        weighted = weight_layers(model)
        names = [name for name in frame.layer_name.unique() if name in weighted]
    numbers = {name: n for n, name in enumerate(names, start=1)}
    rows = frame[frame.layer_name.isin(names)]
    return rows.assign(layer=rows.layer_name.map(numbers)).reset_index(drop=True)


def _predicts_mean(config: Mapping[str, Any]) -> bool:
    """Return True if the mean over the probe set is predicted by default."""
    probe = config["probe"]
    return not probe["images"] or probe["size"] <= MAX_WHOLE_SET


def main_image(predicted: pd.DataFrame) -> int:
    """Return the image to show: the mean over the probe set (-1), or the first predicted image.

    Examples
    --------
    >>> main_image(pd.DataFrame({"image": [4, 2]})), main_image(pd.DataFrame({"image": [4, -1]}))
    (2, -1)
    """
    if predicted.empty or (predicted["image"] == MEAN_OVER_IMAGES).any():
        return MEAN_OVER_IMAGES
    return int(predicted["image"].min())


def _images(cell: Cell) -> Tensor:
    data, scaling = prepared(cell, torch.device("cpu"))
    # Scaled in float32 like the network's inputs; theory then computes in float64.
    return probe_images(cell, data, scaling).double()
