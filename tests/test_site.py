"""The documentation site that `make docs` builds."""

import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("docs", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in (*SOURCES, "results/README.md", "slurm/README.md"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target)
        else:
            shutil.copy(ROOT / name, target)
    return tmp_path


@pytest.mark.slow
def test_the_site_builds_in_strict_mode_and_its_files_exist(tmp_path: Path):
    process = build(ROOT, tmp_path)
    assert process.returncode == 0, process.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        if page.name == "404.html":  # its links are absolute
            continue
        for target in re.findall(r'(?:href|src)="?([^"\s>#?]+)', page.read_text()):
            if not re.match(r"[a-z]+:|\.$", target):
                path = page.parent / unquote(unescape(target))
                assert path.exists(), f"{page.name} links to {target}"


@pytest.mark.slow
@pytest.mark.parametrize("link", ["nosuch.md", "theory.md#nosuch", "../nosuch/README.md"])
def test_a_broken_link_fails_the_build(copy: Path, link: str):
    with (copy / "docs/glossary.md").open("a") as page:
        page.write(f"\n[a link]({link})\n")
    process = build(copy, copy / "site")
    assert process.returncode != 0
    assert "nosuch" in process.stderr
