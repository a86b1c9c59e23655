"""Plant faults in the code and check that tests catch them (mutation testing).

    python -m tests.faults.run

A fault is a substitution in a clone of the repository's last commit. First run the tests that
executed the changed lines (recorded by `python -m tests.faults.record_coverage`), then those that
executed other lines of the file, the fastest first. Lines outside functions run at import, so all
tests of the file count. The outcome is `unsure` if the test also fails without the fault.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from coverage.numbits import numbits_to_nums

from tests.faults.record_coverage import HERE, PYTEST, RECORDED, clone, environment


def substitute(text: str, change: dict[str, str]) -> str:
    """Return a file's text with the fault."""
    if (count := text.count(change["old"])) != 1:
        raise ValueError(f"{change['file']}: found {count} times instead of once: {change['old']}")
    return text.replace(change["old"], change["new"])


def changed_lines(text: str, change: dict[str, str]) -> tuple[set[int], set[int]]:
    """Return the lines of changed statements within functions, and all lines within functions."""
    first = text[: text.index(change["old"])].count("\n") + 1
    pairs = zip_longest(change["old"].splitlines(), change["new"].splitlines())
    changed = {first + number for number, (old, new) in enumerate(pairs) if old != new}
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    within = {
        line
        for function in statements
        if isinstance(function, ast.FunctionDef)
        for line in range(function.body[0].lineno, (function.end_lineno or 0) + 1)
    }
    lines: set[int] = set()
    for statement in statements:
        inner = [node.lineno for node in ast.walk(statement) if isinstance(node, ast.stmt)][1:]
        # Only the first lines of a compound statement, before its body.
        end = min(inner, default=(statement.end_lineno or statement.lineno) + 1) - 1
        head = set(range(statement.lineno, max(statement.lineno, end) + 1))
        lines |= head if head & changed else set()
    return lines & within, within


class Tests:
    """Recorded tests that passed: the lines that each executed, and its CPU seconds."""

    def __init__(self, coverage: Path, durations: Path) -> None:
        pairs = [line.split(" ", 1) for line in durations.read_text().splitlines()]
        self.seconds = {test: float(seconds) for seconds, test in pairs}
        self._coverage = coverage

    def select(self, file: str, lines: set[int], within: set[int], budget: float) -> list[str]:
        """Return tests for changed lines that take at most `budget` seconds (at least one test)."""
        with sqlite3.connect(self._coverage) as database:
            rows = database.execute(
                "SELECT context, numbits FROM line_bits JOIN context ON context.id = context_id"
                " JOIN file ON file.id = file_id WHERE path = ?",
                (file,),
            ).fetchall()
        executed = {test: set(numbits_to_nums(bits)) for test, bits in rows if test in self.seconds}
        exact = [test for test, numbers in executed.items() if numbers & lines]
        same_file = [test for test, numbers in executed.items() if numbers & (within or numbers)]
        chosen: list[str] = []
        for tests in (exact, set(same_file) - set(exact)):
            fitting: list[str] = []
            for test in sorted(tests, key=self.seconds.__getitem__):
                budget -= self.seconds[test]
                if budget >= 0 or not chosen + fitting:
                    fitting.append(test)
            chosen += self._by_file(fitting)
        return chosen

    def _by_file(self, tests: list[str]) -> list[str]:
        """Sort tests by file, because the tests of a file may share fixtures."""
        total: dict[str, float] = defaultdict(float)
        for test in tests:
            total[test.partition("::")[0]] += self.seconds[test]
        return sorted(tests, key=lambda test: (total[test.partition("::")[0]], test))


def failures(folder: Path, tests: list[str], timeout: float, *options: str) -> list[str]:
    """Run tests in this order; return those that fail, or the last line if none could run."""
    selection = folder / "selection.txt"
    selection.write_text("".join(f"{test}\n" for test in tests))
    variables = {"FANIN_TEST_SELECTION": str(selection), "FANIN_TEST_RECORD": str(folder)}
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    process = subprocess.Popen(
        [*PYTEST, "-q", "--tb=no", *options, *files],
        cwd=folder,
        env=environment(folder) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode == 0:
        return []
    failed = (folder / "failed.txt").read_text().splitlines()
    return failed or output.strip().splitlines()[-1:]


def run_fault(fault: dict[str, Any], arguments: Any, root: Path, tests: Tests) -> dict[str, Any]:
    """Plant one fault and run its tests; return the outcome and the test that failed."""
    change, start = fault[arguments.version], time.monotonic()
    folder = clone(arguments.repo, root / fault["id"])
    path = folder / change["file"]
    text = path.read_text()
    path.write_text(substitute(text, change))
    chosen = tests.select(change["file"], *changed_lines(text, change), arguments.budget)
    outcome, test = "survived" if chosen else "no tests", None
    try:
        if chosen and (failed := failures(folder, chosen, arguments.timeout, "-x")):
            outcome, test = "caught", failed[0]
    except subprocess.TimeoutExpired:
        outcome = "timeout"
    seconds = round(time.monotonic() - start, 1)
    print(f"{outcome:9} {seconds:6.1f} s  {fault['id']:25} {test or ''}", flush=True)
    result = {"outcome": outcome, "test": test, "tests": len(chosen), "seconds": seconds}
    return {"id": fault["id"], "sentence": fault["sentence"]} | result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repo", type=Path, default=HERE.parents[1])
    parser.add_argument("--version", choices=("base", "new"), default="new")
    parser.add_argument("--only", nargs="+", metavar="ID", help="default: all faults")
    parser.add_argument("--coverage", type=Path, default=RECORDED / "coverage.sqlite")
    parser.add_argument("--durations", type=Path, default=RECORDED / "durations.txt")
    parser.add_argument("--write", type=Path, default=RECORDED / "faults.json")
    parser.add_argument(
        "--budget", type=float, default=200.0, help="CPU seconds of tests per fault"
    )
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds per fault")
    parser.add_argument("--jobs", type=int, default=2, help="number of concurrent faults")
    arguments = parser.parse_args()
    faults = yaml.safe_load((HERE / "faults.yaml").read_text())
    faults = [fault for fault in faults if fault["id"] in (arguments.only or [fault["id"]])]
    faults = [fault for fault in faults if arguments.version in fault]
    tests = Tests(arguments.coverage, arguments.durations)
    with tempfile.TemporaryDirectory(prefix="fanin-faults-") as name:
        root = Path(name).resolve()
        with ThreadPoolExecutor(arguments.jobs) as pool:
            results = list(pool.map(lambda fault: run_fault(fault, arguments, root, tests), faults))
        # Find tests that fail without any fault.
        catching = {result["test"] for result in results} & tests.seconds.keys()
        clean = clone(arguments.repo, root / "clean")
        broken = failures(clean, sorted(catching), arguments.timeout) if catching else []
    for result in results:
        if result["test"] in broken:
            result["outcome"] = "unsure"
    for outcome, count in Counter(result["outcome"] for result in results).items():
        print(f"{count} of {len(results)} faults: {outcome}")
    arguments.write.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
