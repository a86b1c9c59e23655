"""Theory for the conditions of a sweep, predicted once and stored in the sweep's folder.

A setting's predictions are one part of the `predictions` table, written as soon as they are made.
The part names the theory that made it by a fingerprint of the code; another theory predicts recompute.
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
from torch import Tensor

import experiments
import fanin.theory
from analysis.settings import Setting
from experiments.atomic_write import writing
from experiments.config.identity import flatten
from experiments.config.instantiate import TARGET
from experiments.inputs import prepared, probe_images
from experiments.schema import Cell, build_cell
from experiments.sweep.store.parquet import read_part, write_part
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import DataError, FaninError
from fanin.theory.layer_kind import UnpredictableLayer
from fanin.theory.moments import declared_moments
from fanin.theory.predict import THEORIES, predict_moments

TABLE = "predictions"
FINGERPRINT_KEY = b"fanin.theory"  # the part's note on which code predicted it
SOURCES = (fanin, experiments)  # theory, the declarations that it reads, and the data
LIBRARIES = ("numpy", "scipy", "torch")
COVERED_PACKAGES = ("fanin.", "experiments.", "torch.")  # code that the fingerprint covers
OnPredicted = Callable[[int, int], None]
"""Told how many settings are predicted, and of how many."""


@dataclass(frozen=True)
class SettingPrediction:
    """Predictions for one setting.

    Attributes
    ----------
    frame
        Rows of the `predictions` table without `cell_id`; empty where theory has none.
    reason
        Why there is no prediction, or None.
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
) -> list[SettingPrediction]:
    """Predict every setting, or take what was predicted before by the same code.

    Parameters
    ----------
    folder
        The sweep's; its `predictions` afterwards hold these settings' rows and no others, unless
        `keep_others`.
    recompute
        Predict what is stored as well.
    workers
        Processes. Each predicts on one thread, so that their number changes no bit of a result.
    on_predicted
        Called after each setting.
    keep_others
        Leave what is there of other settings: for who asks about a few of a sweep's.

    Returns
    -------
    list of SettingPrediction
        In the order of the settings.
    """
    fingerprint = theory_fingerprint()
    found: dict[int, SettingPrediction] = {}
    for n, setting in enumerate(settings):
        stored = None if recompute else _load_stored(folder, setting, fingerprint)
        if stored is not None:
            found[n] = SettingPrediction(stored)
    on_predicted(len(found), len(settings))
    missing = [n for n in range(len(settings)) if n not in found]
    for n, predicted in _predict_all({n: settings[n].config for n in missing}, workers):
        found[n] = predicted
        _store(folder, settings[n], predicted.frame, fingerprint)
        on_predicted(len(found), len(settings))
    if not keep_others:
        _delete_stale(folder, {_stem(setting) for setting in settings})
    return [found[n] for n in range(len(settings))]


@cache
def theory_fingerprint() -> str:
    """Tell one state of the theory from another: its sources', and of what it reads.

    Any edit of a Python file under `fanin/theory/` or `experiments/` makes another, as does
    another version of the libraries that compute. That is too often rather than too seldom.
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
    """The setting's rows, if the same code made them for all of its cells."""
    path = folder.table(TABLE) / f"{_stem(setting)}.parquet"
    if _uses_user_code(setting.config) or not path.exists():
        return None
    try:
        part = read_part(path)
    except DataError:  # it is damaged, and made anew
        return None
    if (part.schema.metadata or {}).get(FINGERPRINT_KEY) != fingerprint.encode():
        return None
    frame: pd.DataFrame = part.to_pandas(use_threads=False)  # see `decode`
    if set(frame["cell_id"].unique()) != set(setting.cell_ids):
        return None  # cells were added to the sweep
    mine = frame[frame["cell_id"] == _stem(setting)].drop(columns="cell_id")
    return mine.reset_index(drop=True)


def _uses_user_code(config: Mapping[str, Any]) -> bool:
    """Return True if a user's own code takes part, which the fingerprint doesn't cover."""
    targets = [str(v) for key, v in flatten(config) if key.endswith(TARGET)]
    return not all(target.startswith(COVERED_PACKAGES) for target in targets)


def _store(folder: SweepFolder, setting: Setting, frame: pd.DataFrame, fingerprint: str) -> None:
    if frame.empty:
        _delete(folder.table(TABLE) / f"{_stem(setting)}.parquet")
        return
    words = ["cell_id", *frame.select_dtypes(["object", "string"]).columns]
    rows = pd.concat([frame.assign(cell_id=cell) for cell in setting.cell_ids], ignore_index=True)
    rows = rows[["cell_id", *frame.columns]].astype(dict.fromkeys(words, "category"))
    part = pa.Table.from_pandas(rows, preserve_index=False)
    noted = {**(part.schema.metadata or {}), FINGERPRINT_KEY: fingerprint.encode()}
    write_part(folder, TABLE, _stem(setting), part.replace_schema_metadata(noted))


def _delete_stale(folder: SweepFolder, stems: set[str]) -> None:
    """Parts that are no setting's any more: of an older layout of this table, or plan."""
    for path in folder.table(TABLE).glob("*.parquet"):
        if path.stem not in stems:
            _delete(path)


def _delete(path: Path) -> None:
    with writing(path):
        path.unlink(missing_ok=True)


def _predict_all(
    configs: Mapping[int, Mapping[str, Any]], workers: int
) -> Iterator[tuple[int, SettingPrediction]]:
    """In the order in which they get done."""
    if min(workers, len(configs)) < 2:
        with _one_thread():
            for n, config in configs.items():
                yield n, _predict(config)
        return
    # Spawned: a fork of a process whose torch has started threads may hang.
    with ProcessPoolExecutor(
        min(workers, len(configs)), get_context("spawn"), torch.set_num_threads, (1,)
    ) as pool:
        waiting = {pool.submit(_predict, config): n for n, config in configs.items()}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool:
            raise FaninError(
                "a process that predicted died (out of memory?); what was predicted is kept: "
                "the same command with fewer --workers goes on from there"
            ) from None


def _predict(config: Mapping[str, Any]) -> SettingPrediction:
    try:
        return SettingPrediction(predict_cell(config))
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


def predict_cell(config: Mapping[str, Any], theories: Sequence[str] = THEORIES) -> pd.DataFrame:
    """Predict a cell's probe measurements at initialization, by every theory that applies.

    Parameters
    ----------
    config
        A coerced cell config. Its data is loaded, for theory starts from real images.
    theories
        From coarse to fine. What a finer one has no formula for (a norm over groups, a field too
        large) is left to the coarser ones.

    Returns
    -------
    pandas.DataFrame
        Rows of the `predictions` table without `cell_id`: the probe's single images, and -1 for
        the mean over its probe set.

    Raises
    ------
    UnpredictableLayer
        No theory applies, as where a layer's weights are described by no declaration (LSUV's depend
        on data).
    """
    cell = build_cell(config)
    images = _images(cell)
    model = cell.network().double().eval()
    moments = declared_moments(model, cell.init)
    frames: list[pd.DataFrame] = []
    for theory in theories:
        try:
            frames.append(predict_moments(model, moments, images, (theory,)))
        except UnpredictableLayer:
            if not frames:
                raise
    frame = pd.concat(frames, ignore_index=True)
    shown = frame.image.isin([-1, *cell.probe.images]) & frame.value.notna()
    return frame[shown].reset_index(drop=True)


def _images(cell: Cell) -> Tensor:
    data, scaling = prepared(cell, torch.device("cpu"))
    # Rounded as the network sees them, then exact: theory itself is computed in float64.
    return probe_images(cell, data, scaling).double()
