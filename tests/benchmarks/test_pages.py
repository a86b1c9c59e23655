"""Benchmarks write their tables to docs/appendix/performance.md, between two markers."""

import re

import pytest

from benchmarks.machine import machine, versions
from benchmarks.page import PAGE, RunInfo, Section, write
from benchmarks.store import Size, section
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninError

RUN_INFO = RunInfo("python -m benchmarks.x", ("2026-01-01: 2 cores", "python 3"))
TABLE = Section("Speed", ("method", "s"), (("fanin", "1.0"),), ("A remark.",))


def test_only_the_text_between_the_markers_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- x: begin -->\nold\n<!-- x: end -->\nAfter.\n")
    for _ in range(2):
        write("x", RUN_INFO, [TABLE], page)
    text = page.read_text()
    assert text.startswith("Before.\n<!-- x: begin -->\n")
    assert text.endswith("<!-- x: end -->\nAfter.\n")
    assert "old" not in text
    assert text.count("### Speed\n\n| method | s |\n| --- | ---: |\n| fanin | 1.0 |\n") == 1


def test_a_page_without_the_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Nothing.\n")
    with pytest.raises(FaninError, match="x: begin"):
        write("x", RUN_INFO, [TABLE], page)
    assert page.read_text() == "Nothing.\n"


def test_the_page_has_markers_for_every_benchmark():
    names = re.findall(r"<!-- ([\w.]+): begin -->", PAGE.read_text())
    benchmarks = ["sweep", "store", "report_page", "slurm"]
    assert names == [f"benchmarks.{name}" for name in benchmarks]
    for name in names:
        assert f"<!-- {name}: end -->" in PAGE.read_text()


def test_the_machine_and_versions_are_named():
    assert re.match(r"\d+ cores of .+, load \d", machine())
    assert re.match(r"python 3\S+, fanin \S+, torch \d", versions())


def test_a_large_sweep_is_loaded_completely(tmp_path):
    size = Size(cells=5, layers=2, draws=3, pack=2)
    result = section(size, 1, SweepFolder(tmp_path / "large"))
    # 5 cells of 2 x 8 x 3 rows; 3 packs of 2 part files each, which are merged into one pack.
    assert [row[:4] for row in result.rows] == [
        ("as written", "5", "240", "6"),
        ("compacted", "5", "240", "2"),
    ]
