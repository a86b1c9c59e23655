"""Workers that all die before they begin a cell."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_process import finish, site

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
def test_workers_that_all_die_end_in_an_error_not_in_a_loop(
    tmp_path: Path, where: str, patch: str
) -> None:
    here = site(tmp_path)
    here.tell(
        "sitecustomize.py",
        "import os, sys\n"
        "if 'multiprocessing.forkserver' in ' '.join(sys.orig_argv):\n"
        f"    {patch}\n",
    )
    sweep = here.start(*GRID, "runner.workers=2")
    said = finish(sweep)
    assert sweep.returncode == 2, said
    assert "workers die before they begin a cell; runner=inline shows why" in said
    assert "Traceback" not in said
