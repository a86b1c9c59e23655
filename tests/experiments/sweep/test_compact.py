"""Merging changes how many files there are, and nothing that a reader can see."""

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
    """Five packs; `x` and `y` were tried again, and `y` is then all that its first pack held."""
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


def test_what_is_loaded_stays_the_same(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before, states = contents(loaded(folder)), read_states(folder)
    compact(folder)
    # An attempt at x and one at y; each has a row in `cells`, 3 in `layers` and 1 in two others.
    said = "s: merged 25 part files into 5; dropped 14 rows of superseded attempts\n"
    assert capsys.readouterr().out == said
    assert contents(loaded(folder)) == before
    assert read_states(folder) == states
    after = parts(folder)
    compact(folder)
    assert capsys.readouterr().out == "s: 5 part files; nothing to do\n"
    assert parts(folder) == after


def test_what_comes_later_is_merged_with_what_was_merged(folder: SweepFolder) -> None:
    compact(folder)
    store(folder, "f", result("u", 2), result("t"))
    before = contents(loaded(folder))
    compact(folder)
    assert len(parts(folder)) == len(TABLES)
    assert contents(loaded(folder)) == before


def test_packs_that_are_large_enough_are_left_alone(
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


def test_a_pack_of_nothing_but_superseded_attempts_goes(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.compact.TARGET_ROWS", 30)  # five cells' rows
    store(folder, "f", *(result(cell, 3) for cell in "uvwxy"))
    compact(folder)
    assert {path.stem for path in parts(folder)} == {"f"}


def test_a_pack_that_comes_back_after_it_was_merged_is_passed_over(folder: SweepFolder) -> None:
    old = {path: path.read_bytes() for path in parts(folder)}
    compact(folder)
    before = contents(loaded(folder))
    store(folder, "f", result("t"))
    compact(folder)  # what the first merge superseded, the second does too
    for path, content in old.items():
        path.write_bytes(content)
    assert set(read_states(folder)) == {*"tuvwxy"}
    assert len(contents(loaded(folder))["cells"]) == len(before["cells"]) + 1
    compact(folder)
    assert len(parts(folder)) == len(TABLES)


def test_a_spoilt_pack_is_moved_away_and_the_rest_merged(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = folder.table("layers") / "e.parquet"
    bad.write_bytes(bad.read_bytes()[::-1])
    compact(folder)
    assert str(bad) in capsys.readouterr().out
    assert set(loaded(folder).cells.cell_id) == {*"vwxy"}


def test_what_a_dead_launcher_left_in_journals_is_kept(folder: SweepFolder) -> None:
    journal = Journal(folder.journals / "g.journal")
    journal.done(result("t"))
    journal.close()
    compact(folder)
    assert set(loaded(folder).cells.cell_id) == {*"tuvwxy"}


def test_a_sweep_that_runs_is_not_touched(
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


def test_a_name_that_is_not_there_gets_the_nearest(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ss", "--results", str(folder.root.parent)])
    assert ended.value.code == 2
    assert "did you mean s?" in capsys.readouterr().err


def _compact_and_die(folder: SweepFolder, step: int) -> None:
    """Compact, and be killed just before the file system is changed for the `step`th time."""
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


def test_killed_at_any_step_it_loses_and_doubles_nothing(
    folder: SweepFolder, tmp_path: Path
) -> None:
    for path in parts(folder):  # two packs are enough
        if path.stem not in ("a", "c"):
            path.unlink()
    before, states = contents(loaded(folder)), read_states(folder)
    context = multiprocessing.get_context("fork")
    exits = []
    while 0 not in exits:
        here = SweepFolder(tmp_path / f"try-{len(exits)}" / "s")
        shutil.copytree(folder.root, here.root)
        child = context.Process(target=_compact_and_die, args=(here, len(exits)))
        child.start()
        child.join()
        exits.append(child.exitcode)
        assert contents(loaded(here)) == before, len(exits)  # as it was left
        compact(here)  # the same command again
        assert contents(loaded(here)) == before, len(exits)
        assert read_states(here) == states
        assert len(parts(here)) == len(TABLES)
        assert not here.quarantine.exists()
        assert not list(here.journals.iterdir())
    assert set(exits) == {0, -signal.SIGKILL}
    assert len(exits) > 20
