"""The peak memory of a process is its own, not that of the process that started it."""

import subprocess
import sys

import pytest

from benchmarks.measure import ROOT
from benchmarks.memory import STATUS, peak_memory, reset_peak_memory

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
LARGE = 200  # MB; a Python process without libraries needs about 15 MB


def test_a_new_process_does_not_report_the_memory_of_its_parent():
    block = bytearray(LARGE << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])  # touch every page
    code = "from benchmarks.memory import peak_memory; print(peak_memory())"
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert peak_memory() > LARGE
    assert 1 < float(child.stdout) < LARGE


def test_the_peak_can_be_reset():
    block = bytearray(LARGE << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    before = peak_memory()
    del block
    now = reset_peak_memory()
    assert now < before - LARGE / 2
    assert peak_memory() >= now
