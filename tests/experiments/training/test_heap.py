"""What is freed stays for the next step."""

import os
import platform
import resource
import subprocess
import sys

import pytest

PAGES_OF = """
import resource
import torch
from experiments.training.heap import keep_freed_memory

torch.set_num_threads(1)
{first}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    return [torch.ones(2**22) for _ in range(3)]  # 16 MB each

for _ in range(10):  # until what lies between the tensors has found its place
    step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


def page_faults(first: str) -> int:
    """Of ten rounds in which 48 MB are taken and freed, where glibc keeps nothing by itself."""
    keeps_nothing = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    ran = subprocess.run(
        [sys.executable, "-c", PAGES_OF.format(first=first)],
        env=os.environ | keeps_nothing,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc, and there is none")
def test_freed_memory_is_used_again():
    round_of_pages = 48 * 2**20 // resource.getpagesize()
    assert page_faults("") >= 10 * round_of_pages
    assert page_faults("keep_freed_memory()") < round_of_pages
