"""Tests of writing tables between the marker lines of a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.studies.tables import write_block
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
