"""The documentation site that `make docs` builds."""

import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
SOURCES = (
    *("docs", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"),
    "CITATION.cff",
)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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


CUT = """() => [...document.querySelectorAll("pre, pre > code, .output")]
  .filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.innerText.slice(0, 60))"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site with the recipe of `make docs`, which prints one line."""
    folder = tmp_path_factory.mktemp("site")
    target = ["-n", "-o", ".venv/.installed", "docs", f"BIN={Path(sys.executable).parent}"]
    make = ["make", "--no-print-directory", *target]  # no other line, also inside another make
    recipe = subprocess.run(make, cwd=ROOT, capture_output=True, text=True).stdout
    command = recipe.splitlines()[0]
    assert "mkdocs build" in command
    process = subprocess.run(
        ["bash", "-c", f"{command} --site-dir {folder}"], cwd=ROOT, capture_output=True, text=True
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    return folder


@pytest.mark.slow
def test_the_files_of_all_links_exist(site: Path):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        if page.name == "404.html":  # its links are absolute
            continue
        for target in re.findall(r'(?:href|src)="?([^"\s>#?]+)', page.read_text()):
            if not re.match(r"[a-z]+:|\.$", target):
                path = page.parent / unquote(unescape(target))
                assert path.exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_no_line_of_code_or_output_is_cut_and_no_other_host_is_needed(site: Path):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; run apt-get install chromium")
    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("request", lambda request: requests.append(request.url))
        cut = {}
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            cut[path.name] = page.evaluate(CUT)
        browser.close()
    assert {name: texts for name, texts in cut.items() if texts} == {}
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("link", ["nosuch.md", "theory.md#nosuch", "../nosuch/README.md"])
def test_a_broken_link_fails_the_build(copy: Path, link: str):
    with (copy / "docs/glossary.md").open("a") as page:
        page.write(f"\n[a link]({link})\n")
    process = build(copy, copy / "site")
    assert process.returncode != 0
    assert "nosuch" in process.stderr
