"""The report's page and the index as files, and the command that writes them."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from told_sweep import CELLS, NAME

from analysis import Results
from analysis.report.__main__ import main
from analysis.report.page import PAGE, Theory, write_report
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.paths import TEMPORARY, SweepFolder


@pytest.fixture
def copied(told: Results, tmp_path: Path) -> Path:
    """The sweep's folder, to be changed."""
    return Path(shutil.copytree(told.folder.root, tmp_path / "results" / "copied"))


def told_by(folder: Path, *, theory: bool = False) -> str:
    return write_report(folder.name, folder.parent, Theory(wanted=theory)).read_text()


def test_the_page_needs_nothing_but_itself(page_path: Path):
    text = page_path.read_text()
    assert "default-src &#39;none&#39;" in text
    # Names of formats are no addresses that anything is fetched from.
    addresses = set(re.findall(r"\bhttps?://[^\s\"'<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    fetched = re.findall(r"<(?:link|img|iframe|object)\b|@import|\bsrc=\"", text)
    assert fetched == []


def test_ids_of_figures_are_the_pages_only_ones_and_all_that_is_used_is_there(page_path: Path):
    text = page_path.read_text()
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert len(used) > 20
    assert used <= set(ids)


def test_nothing_in_the_data_can_end_its_script(page_path: Path):
    text = page_path.read_text()
    (data,) = re.findall(r'id="cells-data">(.*?)</script>', text, flags=re.S)
    assert "<" not in data
    assert len(json.loads(data)[0]["values"]) == CELLS


def test_tables_lie_beside_the_page(page_path: Path, told: Results):
    with page_path.with_name("cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["cell_id"] for row in rows} == set(told.cells.cell_id)
    assert {"init", "init.word", "optim.lr", "seed", "outcome", "test_loss"} <= set(rows[0])
    latex = page_path.with_name("cells.tex").read_text()
    assert r"\toprule" in latex
    assert r"he\_normal" in latex
    assert r"\$x\$" in latex  # no mathematics
    bare = [line for line in latex.splitlines() if re.search(r"(?<!\\)[_#$%]", line)]
    assert [line for line in bare if not line.startswith(("\\begin", "\\caption"))] == []


def test_a_sweep_with_no_finished_cell_has_a_page(copied: Path):
    for table in ("cells", "layers", "curves", "predictions", "report"):
        shutil.rmtree(copied / table, ignore_errors=True)
    text = told_by(copied, theory=True)
    assert "<b>Not complete.</b> 0 of 24 cells have ended" in text
    assert "no layer was measured at initialization" in text
    assert "There is no comparison of inits: no cell was trained to its end" in text
    assert "24 missing" in text


def test_a_sweep_that_stopped_halfway_or_runs_has_a_page_that_says_so(copied: Path):
    plan = copied / "cells.jsonl"
    line = json.loads(plan.read_text().splitlines()[0])
    with plan.open("a") as file:
        file.write(json.dumps({**line, "cell_id": "one-more"}) + "\n")
    text = told_by(copied)
    assert "<b>Not complete.</b> 24 of 25 cells have ended; the sweep is stopped" in text
    assert "one-more" in text
    with acquire_sweep_lock(SweepFolder(copied)):  # as while it runs
        assert "the sweep is running: process" in told_by(copied)


def test_damaged_files_are_named_and_the_rest_is_told(copied: Path):
    with (copied / "sweep.yaml").open("a") as file:
        file.write("---\n{torn: [\n")
    with (copied / "cells.jsonl").open("a") as file:
        file.write("{torn\n")
    text = told_by(copied)
    assert "sweep.yaml: 1 of its launches can&#39;t be read" in text
    assert "cells.jsonl: 1 lines can&#39;t be read" in text
    assert "he_normal" in text


def test_theory_can_be_left_out_and_the_page_says_so(copied: Path, capsys):
    main([copied.name, f"--results={copied.parent}", "--no-theory"])
    page = copied / PAGE
    assert capsys.readouterr().out == f"{page}\n"
    assert "made with <code>--no-theory</code>" in page.read_text()
    assert list(page.parent.glob(TEMPORARY)) == []


def test_the_same_theory_check_as_the_commands_is_told(page_path: Path):
    text = page_path.read_text()
    assert "Of 3 settings, theory explains 3" in text
    assert "95 % intervals, forward: they hold" in text


def test_a_name_that_is_no_sweeps_is_refused_with_the_nearest(told: Results, capsys):
    with pytest.raises(SystemExit) as ended:
        main([NAME[:-1], f"--results={told.folder.root.parent}"])
    assert ended.value.code == 2
    assert f"did you mean {NAME}?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["name", "--all"]])
def test_a_sweep_or_all_of_them_is_asked_for(words: list[str], capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "say a sweep's name, or --all" in capsys.readouterr().err


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
