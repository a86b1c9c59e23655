"""Tests of writing tables between the marker lines of a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.studies.blocks import Stamp, parse_stamp, read_blocks, write_block
from fanin.errors import FaninError

PAGE = """# Title

<!-- begin one (made by a command) -->
old
<!-- end one -->

By hand.

<!-- begin two -->
<!-- end two -->
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_only_text_between_the_markers_changes(page: Path) -> None:
    write_block(page, "one", "new\n")
    before, after = PAGE.split("old\n")
    assert page.read_text() == f"{before}\nnew\n\n{after}"
    assert [p.name for p in page.parent.iterdir()] == ["page.md"]


def test_a_stamp_is_written_and_read(page: Path) -> None:
    stamp = Stamp("python -m a --b c; d", "12ab", "2026-11-30", "34cd")
    write_block(page, "one", "new", stamp)
    one, two = read_blocks(page.parent)
    assert (one.name, one.stamp, one.text) == ("one", stamp, "new")
    assert (two.name, two.stamp) == ("two", Stamp())
    assert parse_stamp("made by a command") == Stamp()
    write_block(page, "one", "newer")  # without a stamp, the first marker line stays
    assert next(read_blocks(page.parent)).stamp == stamp


def test_writing_twice_changes_nothing(page: Path) -> None:
    write_block(page, "two", "text")
    once = page.read_text()
    write_block(page, "two", "text")
    assert page.read_text() == once


@pytest.mark.parametrize("text", ["", "<!-- end one -->\n<!-- begin one -->\n", PAGE + PAGE])
def test_a_page_without_markers_is_an_error_and_unchanged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(FaninError, match="expected one line '<!-- begin one -->'"):
        write_block(path, "one", "new")
    assert path.read_text() == text


def test_a_missing_page_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FaninError, match="no such page"):
        write_block(tmp_path / "none.md", "one", "new")
    assert not list(tmp_path.iterdir())
