"""Record the fast tests that execute each line, and the CPU time of each test.

    python -m tests.faults.record_coverage

The tests run in a clone of the repository's last commit. Takes about twice as long as the tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORDED = HERE / "recorded"  # not in git
PACKAGES = ("fanin", "experiments", "analysis", "slurm", "benchmarks")
PYTEST = [sys.executable, "-m", "pytest", "-p", "tests.faults.contexts"]
FAST = ["-m", "not slow and not slurm"]


def clone(repo: Path, to: Path) -> Path:
    """Clone a repository's last commit and copy the pytest plugin into the clone."""
    subprocess.run(["git", "clone", "--quiet", "--shared", repo, to], check=True)
    (to / "tests" / "faults").mkdir(exist_ok=True)
    shutil.copy(HERE / "contexts.py", to / "tests" / "faults")
    return to


def environment(folder: Path) -> dict[str, str]:
    """Return environment variables so that tests import the code of a clone."""
    return os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def settings(folder: Path, data: Path) -> str:
    """Return a coverage configuration with the test's name as context."""
    include = "".join(f"\n    {folder / package}/*" for package in PACKAGES)
    return (
        f"[run]\ndata_file = {data}\nparallel = true\nsigterm = true\n"
        f"concurrency = thread,multiprocessing\ncontext = ${{FANIN_TEST-}}\ninclude = {include}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repo", type=Path, default=HERE.parents[1])
    parser.add_argument("--write", type=Path, default=RECORDED / "coverage.sqlite")
    parser.add_argument("--durations", type=Path, default=RECORDED / "durations.txt")
    parser.add_argument("--workers", default="2")
    parser.add_argument("tests", nargs="*", help="test files; default: all")
    arguments = parser.parse_args()
    arguments.write.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fanin-coverage-") as name:
        temporary = Path(name).resolve()
        folder = clone(arguments.repo, temporary / "clone")
        data = temporary / "data"
        data.mkdir()
        config = temporary / "coveragerc"
        config.write_text(settings(folder, data / "coverage"))
        variables = {"COVERAGE_PROCESS_START": str(config), "FANIN_TEST_RECORD": name}
        flags = ["-n", arguments.workers, "--dist", "loadfile", "-vv", "--durations=0"]
        subprocess.run(
            [*PYTEST, *flags, *FAST, *arguments.tests],
            cwd=folder,
            env=environment(folder) | variables,
        )
        shutil.copy(temporary / "durations.txt", arguments.durations)
        shutil.copy(temporary / "failed.txt", arguments.durations.with_suffix(".failed"))
        combine = [sys.executable, "-m", "coverage", "combine", "--quiet", f"--rcfile={config}"]
        subprocess.run([*combine, data], check=True)
        shutil.copy(data / "coverage", arguments.write)
        with sqlite3.connect(arguments.write) as database:  # make paths relative to the repository
            start = len(f"{folder}/") + 1
            database.execute("UPDATE file SET path = substr(path, ?)", (start,))


if __name__ == "__main__":
    main()
