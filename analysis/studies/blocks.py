"""Generated blocks of documentation pages: their marker lines and provenance."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from experiments.sweep.provenance import code_version, typed_command
from fanin.errors import FaninError

BEGIN = re.compile(r"<!-- begin (?P<name>\S+)(?: \((?P<stamp>.*)\))? -->")
FIELD = re.compile(r"(written by|commit|date|inputs): ")


@dataclass(frozen=True)
class Stamp:
    """Provenance of a block, in its first marker line.

    Attributes
    ----------
    command, commit, date
        Command that wrote the block, commit of its code, and day.
    inputs
        Digest of what a study's block or the overview depends on; empty for other blocks.
    """

    command: str = ""
    commit: str = ""
    date: str = ""
    inputs: str = ""

    def __str__(self) -> str:
        parts = {
            **{"written by": self.command, "commit": self.commit, "date": self.date},
            "inputs": self.inputs,
        }
        return "; ".join(f"{key}: {value}" for key, value in parts.items() if value)


@dataclass(frozen=True)
class Block:
    """A generated block of a page."""

    page: Path
    name: str
    stamp: Stamp
    text: str


def new_stamp(inputs: str = "") -> Stamp:
    """Return the stamp of a block that this process writes."""
    command = typed_command(shlex.join(sys.orig_argv))
    return Stamp(command, code_version(), datetime.now(UTC).date().isoformat(), inputs)


def parse_stamp(text: str) -> Stamp:
    """Parse the text of a stamp; fields that are absent are empty.

    >>> parse_stamp("written by: python -m a; commit: 12ab; date: 2026-11-30").commit
    '12ab'
    """
    parts = FIELD.split(text)[1:]
    fields = {key: value.strip("; ") for key, value in zip(parts[::2], parts[1::2], strict=True)}
    return Stamp(*(fields.get(key, "") for key in ("written by", "commit", "date", "inputs")))


def read_blocks(pages: Path) -> Iterator[Block]:
    """Yield all generated blocks of the Markdown pages in a folder."""
    for page in sorted(pages.rglob("*.md")):
        for match in BEGIN.finditer(page.read_text(encoding="utf-8")):
            stamp = parse_stamp(match["stamp"] or "")
            yield Block(page, match["name"], stamp, read_block(page, match["name"]))


def write_block(page: Path, name: str, text: str, stamp: Stamp | None = None) -> None:
    r"""Replace the text between a page's two marker lines with this name.

    The markers are a line that starts with `<!-- begin NAME` and a line `<!-- end NAME -->`. The
    first one gets the stamp, if there is one.

    Raises
    ------
    FaninError
        The page does not exist or does not have exactly one of each marker.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     page = Path(folder) / "page.md"
    ...     _ = page.write_text("By hand.\n<!-- begin sums -->\nold\n<!-- end sums -->\n")
    ...     write_block(page, "sums", "1 + 1 = 2")
    ...     print(page.read_text(), end="")
    By hand.
    <!-- begin sums -->
    <BLANKLINE>
    1 + 1 = 2
    <BLANKLINE>
    <!-- end sums -->
    """
    lines, begin, end = _find_markers(page, name)
    first = lines[begin] if stamp is None else f"<!-- begin {name} ({stamp}) -->"
    new_lines = [*lines[:begin], first, "", *text.strip("\n").splitlines(), "", *lines[end:]]
    temporary = page.with_name(f".{page.name}.{os.getpid()}")
    temporary.write_text("\n".join(new_lines) + "\n")
    temporary.replace(page)


def read_block(page: Path, name: str) -> str:
    """Read the text between a page's two marker lines with this name.

    Raises
    ------
    FaninError
        The page does not exist or does not have exactly one of each marker.
    """
    lines, begin, end = _find_markers(page, name)
    return "\n".join(lines[begin + 1 : end]).strip("\n")


def _find_markers(page: Path, name: str) -> tuple[list[str], int, int]:
    """Return a page's lines, and the indices of its two marker lines with this name."""
    if not page.is_file():
        raise FaninError(
            f"{page}: no such page. Create it with the lines '<!-- begin {name} -->' and "
            f"'<!-- end {name} -->'"
        )
    lines = page.read_text().splitlines()
    begin = [i for i, line in enumerate(lines) if line.split()[:3] == ["<!--", "begin", name]]
    end = [i for i, line in enumerate(lines) if line.split() == ["<!--", "end", name, "-->"]]
    if len(begin) != 1 or len(end) != 1 or begin[0] > end[0]:
        raise FaninError(
            f"{page}: expected one line '<!-- begin {name} -->' and, after it, one line "
            f"'<!-- end {name} -->'; the tables are written between them"
        )
    return lines, begin[0], end[0]


def publish(text: str, page: Path | None, name: str, inputs: str = "") -> None:
    """Write a text with its provenance between a page's markers, or print it if `page` is None.

    Raises
    ------
    FaninError
        The page does not exist or does not have exactly one of each marker.
    """
    if page:
        write_block(page, name, text, new_stamp(inputs))
    else:
        print(text)
