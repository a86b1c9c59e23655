"""Output of `make setup`, with a pip that installs nothing."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
MAX_LINES = 10
PIP = """\
#!/bin/sh
case "$*" in
  *--requirement*)
    sed -n 's/\\(.*\\)==.*/Collecting \\1/p' requirements.lock
    echo Installing collected packages: all
    echo 'the last line'
    exit {status} ;;
esac
"""


@pytest.mark.parametrize("status", [0, 1])
def test_setup_shows_progress_in_few_lines(status: int, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    pip = tmp_path / ".venv" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.write_text(PIP.format(status=status))
    pip.chmod(0o755)
    process = subprocess.run(
        ["make", "--no-print-directory", "setup", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    n = (ROOT / "requirements.lock").read_text().count("==")
    lines = process.stdout.splitlines()
    assert f"  collected 30 of {n} packages" in lines
    assert "  unpacking the packages ..." in lines
    assert (process.returncode == 0) == (status == 0) == lines[-1].startswith("Done.")
    if status:
        assert "the last line" in lines  # of pip's log
    else:
        assert len(lines) <= MAX_LINES
        assert process.stderr == ""


def test_locked_packages_support_the_oldest_python():
    """Debian 12 has Python 3.11.2."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    names = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M)
    required = {name: metadata(name).get("Requires-Python") or "" for name in names}
    assert len(names) > 100
    assert [n for n, versions in required.items() if oldest not in SpecifierSet(versions)] == []
