"""`experiments.compact`: fewer files, same tables."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stored_packs import contents, loaded, result, store

from experiments.compact import main
from experiments.sweep.store.journal import Journal
from experiments.sweep.store.paths import TABLES, SweepFolder
from experiments.sweep.store.tables import read_states


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """Return five packs with retries of `x` and `y`; the first pack of `y` holds no other cell."""
    folder = SweepFolder(tmp_path / "s")
    store(folder, "a", result("x", outcome="killed"), result("w"))
    store(folder, "b", result("y", outcome="error"))
    store(folder, "c", result("x", 2), result("v", note=1))
    store(folder, "d", result("y", 2, note="two"))
    store(folder, "e", result("u"))
    return folder


def compact(folder: SweepFolder) -> None:
    main([folder.root.name, "--results", str(folder.root.parent)])


def parts(folder: SweepFolder) -> list[Path]:
    return sorted(path for table in TABLES for path in folder.table(table).iterdir())


def test_compact_keeps_the_loaded_tables(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before, states = contents(loaded(folder)), read_states(folder)
    compact(folder)
    # One attempt of x and one of y: rows in `cells` (1), `layers` (3) and others (1 each).
    output = "s: merged 25 part files into 5; dropped 14 rows of superseded attempts\n"
    assert capsys.readouterr().out == output
    assert contents(loaded(folder)) == before
    assert read_states(folder) == states
    after = parts(folder)
    compact(folder)
    assert capsys.readouterr().out == "s: 5 part files; nothing to do\n"
    assert parts(folder) == after


def test_later_packs_merge_with_a_merged_one(folder: SweepFolder) -> None:
    compact(folder)
    store(folder, "f", result("u", 2), result("t"))
    before = contents(loaded(folder))
    compact(folder)
    assert len(parts(folder)) == len(TABLES)
    assert contents(loaded(folder)) == before


def test_large_packs_are_not_merged(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.compact.TARGET_ROWS", 14)  # two cells' rows
    before = contents(loaded(folder))
    compact(folder)
    assert len(parts(folder)) == 15  # c as it was, w with y, u
    assert contents(loaded(folder)) == before
    capsys.readouterr()
    compact(folder)
    assert capsys.readouterr().out == "s: 15 part files; nothing to do\n"


def test_pack_of_superseded_attempts_is_deleted(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.compact.TARGET_ROWS", 30)  # five cells' rows
    store(folder, "f", *(result(cell, 3) for cell in "uvwxy"))
    compact(folder)
    assert {path.stem for path in parts(folder)} == {"f"}


def test_superseded_pack_that_reappears_is_ignored(folder: SweepFolder) -> None:
    old = {path: path.read_bytes() for path in parts(folder)}
    compact(folder)
    before = contents(loaded(folder))
    store(folder, "f", result("t"))
    compact(folder)  # the second merge supersedes what the first did
    for path, content in old.items():
        path.write_bytes(content)
    assert set(read_states(folder)) == {*"tuvwxy"}
    assert len(contents(loaded(folder))["cells"]) == len(before["cells"]) + 1
    compact(folder)
    assert len(parts(folder)) == len(TABLES)


def test_compact_quarantines_a_damaged_pack(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = folder.table("layers") / "e.parquet"
    bad.write_bytes(bad.read_bytes()[::-1])
    compact(folder)
    assert str(bad) in capsys.readouterr().out
    assert set(loaded(folder).cells.cell_id) == {*"vwxy"}


def test_compact_keeps_journals_of_a_dead_launcher(folder: SweepFolder) -> None:
    journal = Journal(folder.journals / "g.journal")
    journal.done(result("t"))
    journal.close()
    compact(folder)
    assert set(loaded(folder).cells.cell_id) == {*"tuvwxy"}


def test_compact_refuses_a_running_sweep(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = parts(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        folder.launcher.write_text(json.dumps({"host": platform.node(), "pid": other.pid}))
        with pytest.raises(SystemExit) as ended:
            compact(folder)
        other.communicate(b"\n")
    assert ended.value.code == 2
    assert f"process {other.pid} is running this sweep" in capsys.readouterr().err
    assert parts(folder) == before


def test_unknown_name_suggests_the_nearest(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ss", "--results", str(folder.root.parent)])
    assert ended.value.code == 2
    assert "did you mean s?" in capsys.readouterr().err


def _compact_and_die(folder: SweepFolder, step: int) -> None:
    """Compact; kill this process just before its `step`th change of the file system."""
    left = iter(range(step))

    def dying(change: Any) -> Any:
        def changed(*arguments: Any, **more: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **more)

        return changed

    for name in ("replace", "unlink", "mkdir", "touch"):
        setattr(Path, name, dying(getattr(Path, name)))
    compact(folder)


def test_kill_at_any_step_loses_and_duplicates_nothing(folder: SweepFolder, tmp_path: Path) -> None:
    for path in parts(folder):  # two packs are enough
        if path.stem not in ("a", "c"):
            path.unlink()
    before, states = contents(loaded(folder)), read_states(folder)
    context = multiprocessing.get_context("fork")
    exits = []
    while 0 not in exits:
        copy = SweepFolder(tmp_path / f"try-{len(exits)}" / "s")
        shutil.copytree(folder.root, copy.root)
        child = context.Process(target=_compact_and_die, args=(copy, len(exits)))
        child.start()
        child.join()
        exits.append(child.exitcode)
        assert contents(loaded(copy)) == before, len(exits)  # as it was left
        compact(copy)  # the same command again
        assert contents(loaded(copy)) == before, len(exits)
        assert read_states(copy) == states
        assert len(parts(copy)) == len(TABLES)
        assert not copy.quarantine.exists()
        assert not list(copy.journals.iterdir())
    assert set(exits) == {0, -signal.SIGKILL}
    assert len(exits) > 20
