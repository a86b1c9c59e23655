"""Workers that all die before they start a cell."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_process import make_site, wait_for_output

GRID = ("init.number=range(12)", "runner.pack_cells=6")


@pytest.mark.parametrize(
    ("where", "patch"),
    [
        ("at once", "import multiprocessing.spawn as s; s._main = lambda *_: os._exit(1)"),
        pytest.param(
            "before its first cell",
            "import experiments.sweep.store.journal as j\n"
            "    j.Journal.__init__ = lambda *_, **__: os.kill(os.getpid(), 9)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_workers_that_die_at_startup_end_in_an_error(
    tmp_path: Path, where: str, patch: str
) -> None:
    site = make_site(tmp_path)
    site.write_file(
        "sitecustomize.py",
        "import os, sys\n"
        "if 'multiprocessing.forkserver' in ' '.join(sys.orig_argv):\n"
        f"    {patch}\n",
    )
    sweep = site.start(*GRID, "runner.workers=2")
    output = wait_for_output(sweep)
    assert sweep.returncode == 2, output
    assert "workers die before they start a cell; run with runner=inline" in output
    assert "Traceback" not in output
