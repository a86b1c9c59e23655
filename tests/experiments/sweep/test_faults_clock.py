"""Clock jumps of a day, backward and forward, while a sweep runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fault_rows import Record, describe_end, fault, rerun
from sweep_process import Site, wait_for_output, wait_until

DAY = 24 * 3600
# Library that shifts all clocks of the time of day by the seconds in a file.
CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {
    char text[32] = {0};
    int file = open(getenv("CLOCK_AHEAD"), O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    return size > 0 ? atol(text) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += ahead();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    int failed = syscall(SYS_gettimeofday, now, zone);
    if (!failed) now->tv_sec += ahead();
    return failed;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shift the clock of all child processes; return the file with the seconds."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    arguments = [compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "clock.c")]
    subprocess.run(arguments, check=True)
    ahead = tmp_path / "ahead"
    monkeypatch.setenv("CLOCK_AHEAD", str(ahead))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    jump(ahead, 0)
    return ahead


def jump(clock: Path, seconds: int) -> None:
    new = clock.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(clock)


def python(*arguments: str, cwd: Path) -> str:
    process = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, ""), process.stderr
    return process.stdout


def test_clock_jumps_change_nothing(faulty: Site, clock: Path, record: Record) -> None:
    arguments = ("init.number=range(6)", "runner.workers=1", "runner.cell_seconds=100")
    for number in (1, 4):
        faulty.write_file(f"step-{number}", "hold")
    sweep = faulty.start(*arguments)
    for number, ahead in ((1, -DAY), (4, DAY)):
        wait_until(lambda n=number: (faulty.root / f"at-{n}").exists(), sweep)
        before = float(python("-c", "import time; print(time.time())", cwd=faulty.root))
        jump(clock, ahead)
        after = float(python("-c", "import time; print(time.time())", cwd=faulty.root))
        assert (after - before > 0) == (ahead > 0)  # the jump took effect
        status = ["-m", "experiments.status", "s", f"--results={faulty.root}"]
        assert f"{number} ok" in python(*status, cwd=faulty.root)
        faulty.remove_files(f"step-{number}")
    output = wait_for_output(sweep)
    assert sweep.returncode == 0, output
    first_run = describe_end(faulty, sweep.returncode)
    assert first_run == "exit 0; 6 ok"
    second_run = rerun(faulty, *arguments, cells=6)
    record(fault("a clock that jumps back by a day, then forward by two"), first_run, second_run)
