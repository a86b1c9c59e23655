"""Format version of a sweep's folder: written by a run, checked by every reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_rows import run_inline
from stored_packs import result, store
from sweep_process import Site

from analysis import load
from experiments import cancel, compact, status
from experiments.sweep.store.format_version import FORMAT_VERSION
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

ADVICE = (
    f"this version of fanin reads format version {FORMAT_VERSION}. Run the sweep again under "
    "another sweep.name, or delete the folder; to read it as it is, check out the commit that "
    "wrote it"
)
OTHERS = {
    f'{{"format": {FORMAT_VERSION + 1}}}': f"format version {FORMAT_VERSION + 1}",
    "": "no readable format version (format.json)",
    "[]": "no readable format version (format.json)",
}
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "status": status.main,
    "compact": compact.main,
    "cancel": cancel.main,
}


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(tmp_path / "s")
    store(folder, "pack", result("a"))
    return folder


def files(folder: SweepFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


def test_run_writes_the_format_version_and_refuses_others(
    faulty: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_inline(faulty) == 0
    assert json.loads(faulty.folder.format.read_text()) == {"format": FORMAT_VERSION}
    assert run_inline(faulty) == 0
    for content, version in OTHERS.items():
        faulty.folder.format.write_text(content)
        before = files(faulty.folder)
        for arguments in ((), ("sweep.mode=plan",), ("init.number=7",)):
            capsys.readouterr()
            assert run_inline(faulty, *arguments) == 2
            message = capsys.readouterr().err
            assert f"{faulty.folder.root}: this sweep has {version}; {ADVICE}" in message
        assert files(faulty.folder) == before
    faulty.folder.format.unlink()
    assert run_inline(faulty) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_another_format_version(
    command: str, folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, version in OTHERS.items():
        folder.format.write_text(content)
        before = files(folder)
        with pytest.raises(SystemExit, match="2"):
            COMMANDS[command](["s", f"--results={folder.root.parent}"])
        message = capsys.readouterr().err
        assert f"{folder.root}: this sweep has {version}; {ADVICE}" in message
        assert files(folder) == before
    folder.format.unlink()
    with pytest.raises(SystemExit, match="2"):
        COMMANDS[command](["s", f"--results={folder.root.parent}"])


def test_load_refuses_another_format_version(folder: SweepFolder) -> None:
    assert len(load("s", folder.root.parent).cells) == 1
    folder.format.write_text(json.dumps({"format": FORMAT_VERSION + 1}))
    with pytest.raises(FaninError, match=f"format version {FORMAT_VERSION + 1}; this version"):
        load("s", folder.root.parent)
    folder.format.unlink()
    with pytest.raises(FaninError, match="no readable format version"):
        load("s", folder.root.parent)


def test_status_of_all_sweeps_warns_of_another_format_version(
    folder: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    store(SweepFolder(folder.root.parent / "readable"), "pack", result("a"))
    folder.format.unlink()
    status.main([f"--results={folder.root.parent}", "--json"])
    output = capsys.readouterr()
    assert [sweep["name"] for sweep in json.loads(output.out)["sweeps"]] == ["readable"]
    assert f"{folder.root}: this sweep has no readable format version" in output.err
