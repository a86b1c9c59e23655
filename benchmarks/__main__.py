"""Measure the speed of fanin: `python -m benchmarks [--quick|--full] [SECTION ...]`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks.machine import machine, versions
from benchmarks.page import show
from benchmarks.publish import full_minutes, write_pages
from benchmarks.registry import NAMED_ONLY, SECTIONS, load_section, summaries
from benchmarks.results import OUTPUT, QUIET_LOAD, STORED, Result, load_average, read_results
from benchmarks.section import Case, Mode, Record, SectionModule, Settings, Workers
from experiments.console import INTERRUPTED, exit_on_error
from experiments.data_root import data_folder
from fanin.errors import ConfigError, FaninError, suggest

NAME = "benchmarks"
FAILED = 1  # exit status


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the sections, print their tables, and store the results."""
    args = _parser().parse_args(argv)
    out, progress = Console(width=max(Console().width, 120)), Console(stderr=True)
    stored = STORED if args.write or args.page else OUTPUT
    with exit_on_error():
        names = check_names(args.sections)
        if args.page:
            print_paths(out, write_pages(stored))
            return 0
        mode: Mode = "full" if args.full else "tiny" if args.tiny else "quick"
        command = shlex.join(["python", "-m", NAME, *(sys.argv[1:] if argv is None else argv)])
        run = Run(mode, data_folder(args.data_root), command, stored, out, progress)
        status = run.all(names)
        if args.write:
            print_paths(out, write_pages(stored))
    return status


def check_names(names: Sequence[str]) -> list[str]:
    """Return the sections to run: those named, or all but those that run only if named.

    Raises
    ------
    ConfigError
        There is no such section.
    """
    known = (*SECTIONS, *NAMED_ONLY)
    for name in names:
        if name not in known:
            raise ConfigError(f"{name}: no such section; {suggest(name, known, n=1)}")
    return list(dict.fromkeys(names)) or list(SECTIONS)


class Run:
    """One run of several sections.

    Parameters
    ----------
    mode, data_root
        As in `Settings`.
    command
        The command line, for the results.
    stored
        Folder of the results.
    out, progress
        Consoles for the tables and for the progress.
    """

    def __init__(
        self,
        mode: Mode,
        data_root: Path,
        command: str,
        stored: Path,
        out: Console,
        progress: Console,
    ) -> None:
        self._mode, self._data_root, self._command = mode, data_root, command
        self._stored, self._out, self._progress = stored, out, progress

    def all(self, names: Sequence[str]) -> int:
        """Run sections one after the other; return the exit status.

        An error ends only its section. Ctrl-C ends the run. Finished sections are stored.
        """
        date = datetime.now(UTC).date().isoformat()
        load = load_average()
        self._log(f"{date}: {machine()}, load {load}; {versions()}")
        if load > QUIET_LOAD and self._mode == "full":
            self._log(f"Warning: the load average is {load}; other programs distort the times.")
        modules = {name: load_section(name) for name in names}
        with tempfile.TemporaryDirectory(prefix="fanin-benchmark-") as folder:
            expected: dict[str, float] = {}
            for name, module in modules.items():
                with self._settings(Path(folder) / name) as settings:
                    module.check(settings)
                    expected[name] = sum(case.seconds for case in module.cases(settings))
            timer = Timer(sum(expected.values()))
            failed: list[str] = []
            done: list[str] = []
            for name, module in modules.items():
                try:
                    self._section(name, module, Path(folder) / name, timer, load)
                    done.append(name)
                except KeyboardInterrupt:
                    kept = f"Stored: {', '.join(done)}." if done else "Nothing was finished."
                    self._log(f"Interrupted in section {name}. {kept}")
                    return INTERRUPTED
                except Exception as error:
                    known = isinstance(error, FaninError)
                    text = str(error) if known else traceback.format_exc()
                    self._log(f"Section {name} failed: {text}")
                    timer.skip_to(sum(list(expected.values())[: len(done) + len(failed) + 1]))
                    failed.append(name)
        return FAILED if failed else 0

    def _section(
        self, name: str, module: SectionModule, folder: Path, timer: Timer, load: float
    ) -> None:
        """Measure, print and store one section."""
        started = time.perf_counter()
        with self._settings(folder) as settings:
            cases = module.cases(settings)
            records = [
                self._case(f"{name} {number}/{len(cases)}", case, module, timer)
                for number, case in enumerate(cases, start=1)
            ]
        result = Result(
            *(name, self._mode, self._command, datetime.now(UTC).date().isoformat(), machine()),
            *(versions(), (load, load_average()), round(time.perf_counter() - started, 1), records),
        )
        for table in module.tables(records):
            show(self._out, table)
        print_paths(self._out, [result.save(self._stored)])

    def _case(self, label: str, case: Case, module: SectionModule, timer: Timer) -> Record:
        started = time.perf_counter()
        record = case.measure()
        timer.finish(case.seconds)
        seconds = time.perf_counter() - started
        line = module.line(record)
        self._log(f"{label}: {case.name}: {line} ({seconds:.0f} s; {timer.left()} left)")
        return record

    @contextmanager
    def _settings(self, folder: Path) -> Iterator[Settings]:
        folder.mkdir(exist_ok=True)
        with ExitStack() as stack:
            yield Settings(self._mode, self._data_root, folder, Workers(stack))

    def _log(self, text: str) -> None:
        self._progress.print(text, highlight=False, markup=False, soft_wrap=True)


class Timer:
    """Remaining time of a run: expected seconds, scaled by the speed so far."""

    def __init__(self, expected: float) -> None:
        self._expected, self._finished = expected, 0.0
        self._started = time.perf_counter()

    def finish(self, expected: float) -> None:
        """Count a case as finished."""
        self._finished += expected

    def skip_to(self, expected: float) -> None:
        """Count all cases up to a sum of expected seconds as finished."""
        self._finished = max(self._finished, expected)

    def left(self) -> str:
        """Return the remaining time as text."""
        scale = (time.perf_counter() - self._started) / max(self._finished, 1e-9)
        seconds = max(self._expected - self._finished, 0) * scale
        return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def print_paths(out: Console, paths: Sequence[Path]) -> None:
    """Print the files that were written."""
    for path in paths:
        out.print(f"Wrote {path}", highlight=False, markup=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}",
        description="Measure the speed of fanin and of other tools on this machine. Run it on an "
        "idle machine.",
        epilog=f"sections:\n{summaries()}\n\n`python -m benchmarks.gpu --help` checks a GPU.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="sections (default: all)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes, a few minutes (default)")
    minutes = full_minutes(read_results(STORED, SECTIONS))
    took = "" if minutes is None else f"; took {minutes} minutes for docs/performance.md"
    size.add_argument("--full", action="store_true", help=f"all sizes{took}")
    size.add_argument("--tiny", action="store_true", help="smallest sizes, to test the command")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"store the results in {STORED.name}/ and update docs/performance.md, its plots, and "
        "docs/appendix/performance.md",
    )
    parser.add_argument(
        "--page", action="store_true", help="only update these pages, from the stored results"
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="folder with MNIST's files in mnist/ (default: $FANIN_DATA or ~/.cache/fanin)",
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stop the cluster
    raise SystemExit(main())
