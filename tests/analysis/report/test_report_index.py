"""The list of all sweeps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis import Results
from analysis.report.__main__ import main


def test_every_sweep_is_listed_and_what_is_none_is_named(
    told: Results, page_path: Path, tmp_path: Path, capsys
):
    for name in ("whole", "torn"):
        shutil.copytree(told.folder.root, tmp_path / name)
    shutil.rmtree(tmp_path / "torn" / "report")
    (tmp_path / "torn" / "sweep.yaml").write_text("{")
    for part in (tmp_path / "torn" / "cells").iterdir():
        part.write_bytes(b"nothing")
    (tmp_path / "holiday <pictures>").mkdir()
    (tmp_path / ".secret").mkdir()
    main(["--all", f"--results={tmp_path}"])
    page = tmp_path / "index.html"
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert '<a href="whole/report/index.html">whole</a>' in text
    assert '<th scope="row">torn</th>' in text  # without a link
    assert "sweep.yaml: 1 of its launches can&#39;t be read" in text
    assert "24 missing" in text
    assert "<li>holiday &lt;pictures&gt;</li>" in text
    assert ".secret" not in text


def test_an_empty_folder_has_an_index(tmp_path: Path):
    main(["--all", f"--results={tmp_path}"])
    assert "There is no sweep yet" in (tmp_path / "index.html").read_text()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--all", f"--results={tmp_path / 'nowhere'}"])
    assert ended.value.code == 2
    assert "no such folder" in capsys.readouterr().err
