"""Run the commands and examples of the documentation, in their order."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python|yaml)\n(.*?)^```", re.M | re.S)
HOW_TO = [
    *("certificate", "compare", "data", "diagnose"),
    "first-steps",
    "own-code",
    "own-init",
    "report",
    "sweeps",
]
PAGES = ["README.md", *(f"docs/{name}.md" for name in HOW_TO)]
ON_SLURM = ["docs/slurm.md"]  # run by tests/slurm/test_docs_slurm.py


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / page).read_text())


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_all_examples_of_a_page_run(page: str, tmp_path: Path):
    """Write blocks that begin with `# file: NAME`; run the other bash and python blocks."""
    folders = (ROOT / "tests" / "bin", Path(sys.executable).parent, os.environ["PATH"])
    search_path = os.pathsep.join(map(str, folders))
    environment = os.environ | {"PATH": search_path, "OMP_NUM_THREADS": "1"}
    for language, text in blocks(page):
        file_name = re.match(r"# file: (\S+)\n", text)
        if file_name:
            path = tmp_path / file_name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            continue
        command = (
            ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        )
        process = subprocess.run(
            [*command, text], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, f"{page}:\n{text}\n{process.stdout}\n{process.stderr}"


def test_every_page_with_commands_is_tested():
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
    with_bash = [str(p.relative_to(ROOT)) for p in pages if "```bash" in p.read_text()]
    assert sorted({"README.md", *with_bash}) == sorted(PAGES + ON_SLURM)


@pytest.mark.slow
def test_make_demo_runs(tmp_path: Path):
    """Run the recipe in an empty folder with the installed packages."""
    target = ["-o", ".venv/.installed", "demo", f"BIN={Path(sys.executable).parent}"]
    process = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), *target],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert (tmp_path / "results/he_vs_glorot/figures/variance_by_layer-two_layer.png").exists()


def test_links_between_pages_have_existing_targets():
    for page in [ROOT / "README.md", ROOT / "results/README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_make_targets_in_the_readme_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    used = re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text())
    assert {"demo", "test", "docs"} <= set(used) <= set(targets)


def test_docs_give_the_reason_for_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["suite"]]
    names = [re.match(r"[a-z0-9-]+", requirement)[0] for requirement in requirements]
    reasons = (ROOT / "docs/dependencies.md").read_text()
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"^\|.*\b{name}\b.*\|", reasons, re.M)] == []
