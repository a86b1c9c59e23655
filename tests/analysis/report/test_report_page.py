"""Tests of the report and index files, and of the command line."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from hostile_sweep import CELLS, NAME

from analysis import Results
from analysis.report.__main__ import main
from analysis.report.page import PAGE, TheoryOptions, write_report
from experiments.sweep.store.lock import acquire_sweep_lock
from experiments.sweep.store.paths import TEMPORARY, SweepFolder
from fanin.theory.prediction import METHODS


@pytest.fixture
def sweep_copy(hostile: Results, tmp_path: Path) -> Path:
    """Copy the sweep's folder so that a test may change it."""
    return Path(shutil.copytree(hostile.folder.root, tmp_path / "results" / "sweep_copy"))


def report_text(folder: Path, *, theory: bool = False) -> str:
    return write_report(folder.name, folder.parent, TheoryOptions(enabled=theory)).read_text()


def test_the_page_is_self_contained(page_path: Path):
    text = page_path.read_text()
    assert "default-src &#39;none&#39;" in text
    # XML namespaces are the only addresses.
    addresses = set(re.findall(r"\bhttps?://[^\s\"'<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    fetched = re.findall(r"<(?:link|img|iframe|object)\b|@import|\bsrc=\"", text)
    assert fetched == []


def test_ids_are_unique_and_every_reference_resolves(page_path: Path):
    text = page_path.read_text()
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    assert len(used) > 20
    assert used <= set(ids)


def test_data_cannot_close_its_script_element(page_path: Path):
    text = page_path.read_text()
    (data,) = re.findall(r'id="cells-data">(.*?)</script>', text, flags=re.S)
    assert "<" not in data
    assert len(json.loads(data)[0]["values"]) == CELLS


def test_downloads_are_next_to_the_page(page_path: Path, hostile: Results):
    with page_path.with_name("cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["cell_id"] for row in rows} == set(hostile.cells.cell_id)
    assert {"init", "init.text", "optim.lr", "seed", "outcome", "test_loss"} <= set(rows[0])
    latex = page_path.with_name("cells.tex").read_text()
    assert r"\toprule" in latex
    assert r"he\_normal" in latex
    assert r"\$x\$" in latex  # escaped
    unescaped = [line for line in latex.splitlines() if re.search(r"(?<!\\)[_#$%]", line)]
    assert [line for line in unescaped if not line.startswith(("\\begin", "\\caption"))] == []


def test_the_footer_names_the_files_that_the_page_links_to(page_path: Path):
    text = page_path.read_text()
    footer = text[text.index("<footer>") :]
    linked = set(re.findall(r'<a href="([^"#]+)"', text))
    assert linked == {"cells.csv", "cells.tex"}
    assert all(f"<code>{name}</code>" in footer for name in linked)
    assert "no other file" not in footer


def test_a_sweep_without_finished_cells_has_a_page(sweep_copy: Path):
    for table in ("cells", "layers", "curves", "predictions", "report"):
        shutil.rmtree(sweep_copy / table, ignore_errors=True)
    text = report_text(sweep_copy, theory=True)
    assert "<b>Not complete.</b> 0 of 24 cells have ended" in text
    assert "no layer was measured at initialization" in text
    assert "fanin check" not in text
    assert "fanin figures" not in text
    assert "No comparison of inits: no cell has finished training" in text
    assert "24 missing" in text


def test_a_stopped_or_running_sweep_is_reported_as_not_complete(sweep_copy: Path):
    plan = sweep_copy / "cells.jsonl"
    line = json.loads(plan.read_text().splitlines()[0])
    with plan.open("a") as file:
        file.write(json.dumps({**line, "cell_id": "one-more"}) + "\n")
    (sweep_copy / "request.json").unlink()  # then all planned cells count
    text = report_text(sweep_copy)
    assert "<b>Not complete.</b> 24 of 25 cells have ended; the sweep is stopped" in text
    assert "one-more" in text
    with acquire_sweep_lock(SweepFolder(sweep_copy)):  # a running launcher holds the lock
        assert "the sweep is running: process" in report_text(sweep_copy)


def test_damaged_files_are_named_and_the_rest_is_reported(sweep_copy: Path):
    with (sweep_copy / "sweep.yaml").open("a") as file:
        file.write("---\n{torn: [\n")
    with (sweep_copy / "cells.jsonl").open("a") as file:
        file.write("{torn\n")
    text = report_text(sweep_copy)
    assert "sweep.yaml: 1 launch record not readable" in text
    assert "cells.jsonl: skipped 1 damaged line" in text
    assert "he_normal" in text


def test_no_theory_is_stated_on_the_page(sweep_copy: Path, capsys):
    main([sweep_copy.name, f"--results={sweep_copy.parent}", "--no-theory"])
    page = sweep_copy / PAGE
    assert capsys.readouterr().out == f"{page}\n"
    assert "written with <code>--no-theory</code>" in page.read_text()
    assert list(page.parent.glob(TEMPORARY)) == []


def test_the_page_contains_the_summary_of_the_theory_check(page_path: Path):
    text = page_path.read_text()
    assert re.search(r"in \d of 3 settings", text)
    assert "layers disagree in 0" in text
    assert "Predictions by method: " in text
    assert "Predicted 95 % intervals, forward:" in text
    ((method, row),) = re.findall(r'<th scope="row">([a-z ]+)</th><td>forward</td>(.*)</tr>', text)
    assert method.replace(" ", "_") in METHODS
    layers, inside, ratio, distance, p = re.findall(r'<td class="n">([\d.,]+)', row)
    assert int(layers) > 0
    assert float(inside) > 50
    assert 0 < float(ratio) < 3
    assert 0 < float(distance) < 1
    assert 0 < float(p) <= 1


def test_an_unknown_sweep_is_refused_with_the_nearest_name(hostile: Results, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([NAME[:-1], f"--results={hostile.folder.root.parent}"])
    assert exit_info.value.code == 2
    assert f"did you mean {NAME}?" in capsys.readouterr().err


def test_a_name_or_all_is_required(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([])
    assert exit_info.value.code == 2
    assert "give the name of a sweep, or --all for an index" in capsys.readouterr().err


def test_the_index_lists_sweeps_and_other_folders(
    hostile: Results, page_path: Path, tmp_path: Path, capsys
):
    for name in ("complete", "damaged"):
        shutil.copytree(hostile.folder.root, tmp_path / name)
    shutil.rmtree(tmp_path / "damaged" / "report")
    (tmp_path / "damaged" / "sweep.yaml").write_text("{")
    for part in (tmp_path / "damaged" / "cells").iterdir():
        part.write_bytes(b"nothing")
    (tmp_path / "holiday <pictures>").mkdir()
    (tmp_path / ".secret").mkdir()
    main(["--all", f"--results={tmp_path}"])
    page = tmp_path / "index.html"
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert '<a href="complete/report/index.html">complete</a>' in text
    assert '<th scope="row">damaged</th>' in text  # without a link
    assert "sweep.yaml: 1 launch record not readable" in text
    assert "24 missing" in text
    assert "<li>holiday &lt;pictures&gt;</li>" in text
    assert ".secret" not in text


def test_an_empty_folder_has_an_index(tmp_path: Path):
    main(["--all", f"--results={tmp_path}"])
    assert "No sweeps yet" in (tmp_path / "index.html").read_text()


def test_a_missing_folder_is_refused(tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--all", f"--results={tmp_path / 'nowhere'}"])
    assert exit_info.value.code == 2
    assert "no such folder" in capsys.readouterr().err


def test_the_outcome_comes_first_then_the_curves_then_theory(page_path: Path):
    text = page_path.read_text()
    sections = re.findall(r'<section id="([a-z]+)"', text)
    assert sections[:5] == ["runs", "training", "comparison", "figures", "theory"]
    summary = text.index('id="summary-title"')
    assert summary < text.index('id="runs-title"')
    assert re.search(r"<li>24 cells: \d+ ok, ", text)
    assert "Best of" in text
    assert 'id="figure-' in text[text.index('id="training"') : text.index('id="comparison"')]
