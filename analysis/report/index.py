"""A page that lists every sweep in a folder of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from analysis.report import template
from analysis.report.launches import read_launches
from analysis.report.outcomes import Share, as_shares
from analysis.report.page import PAGE
from experiments.atomic_write import atomic_write
from experiments.sweep.store.paths import SweepFolder
from experiments.sweep.view.overview import is_sweep
from experiments.sweep.view.status import Status
from experiments.sweep.view.watch import Watch
from experiments.sweep.view.words import tally
from fanin.errors import FaninError

INDEX = "index.html"


@dataclass(frozen=True)
class SweepRow:
    """One sweep of the list; `link` is None where it has no report, `when` where nothing ran."""

    name: str
    question: str | None
    status: Status
    shares: Sequence[Share]
    when: str | None
    link: str | None
    notes: Sequence[str]


def write_index(results: Path) -> Path:
    """Make the page; its path.

    Raises
    ------
    FaninError
        There is no such folder, or the page can't be written.
    """
    if not results.is_dir():
        raise FaninError(f"{results}: no such folder (--results says where sweeps are kept)")
    rows, torn, foreign = [], [], []
    for path in sorted(results.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        folder = SweepFolder(path)
        if not is_sweep(folder):
            foreign.append(path.name)
            continue
        try:
            rows.append(_row(folder))
        except (FaninError, OSError, ValueError) as error:  # its other neighbours count too
            torn.append(f"{path.name}: {error}")
    rows.sort(key=lambda row: row.status.changed or 0.0, reverse=True)
    page = results / INDEX
    told = {"rows": rows, "torn": torn, "foreign": foreign, "results": str(results)}
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    atomic_write(page, template.render("index.html", made=made, **told).encode())
    return page


def _row(folder: SweepFolder) -> SweepRow:
    status = Watch(folder).look(0)
    launches, unread = read_launches(folder)
    name = folder.root.name
    return SweepRow(
        name=name,
        question=next((each.question for each in reversed(launches) if each.question), None),
        status=status,
        shares=as_shares(dict(tally(status))),
        when=None
        if status.changed is None
        else f"{datetime.fromtimestamp(status.changed, UTC):%Y-%m-%d %H:%M}",
        link=f"{quote(name)}/{PAGE.as_posix()}" if (folder.root / PAGE).exists() else None,
        notes=[*status.warnings, *unread],
    )
