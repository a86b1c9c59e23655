"""The examples of docs/diagnose.md find the causes of their sections."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fanin.diagnosis.finding import CAUSES

PAGE = (Path(__file__).parents[3] / "docs" / "diagnose.md").read_text()
PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def section(cause: str) -> str:
    """Return the text under the heading of a cause."""
    return PAGE.split(f"\n### {cause}\n")[1].split("\n## ")[0].split("\n### ")[0]


def test_the_page_has_a_section_for_every_cause_in_their_order() -> None:
    assert re.findall(r"^### (.*)$", PAGE, re.M) == list(CAUSES)


@pytest.mark.parametrize("cause", CAUSES)
def test_the_example_finds_its_cause_first(cause: str, tmp_path: Path) -> None:
    setup = next(code for code in PYTHON.findall(PAGE) if code.startswith("# file: setup.py"))
    (tmp_path / "setup.py").write_text(setup)
    (code,) = PYTHON.findall(section(cause))
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    found = re.findall(r"^\d+\. (\w+) \(", process.stdout, re.M)
    # Weights that make float16 or a softmax overflow are a second finding.
    second = ["init"] if cause in ("overflow", "log_of_zero") else []
    assert found == [cause, *second], process.stdout
    assert not process.stderr
