"""On Slurm comes out what comes out here."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Cluster
from faulty import Faulty
from undisturbed import assert_same_tables, undisturbed

pytestmark = pytest.mark.slurm


def test_tables_are_those_of_a_sweep_on_this_machine(
    healthy_cluster: Cluster, tmp_path: Path
) -> None:
    faulty = Faulty(healthy_cluster, tmp_path)
    status, said = faulty.run("init.number=range(9)", "runner.pack_cells=3")
    assert status == 0, said
    assert set(faulty.runs().values()) == {1}
    assert len(faulty.runs()) == 3
    assert faulty.attempts() == {number: ["ok"] for number in range(9)}
    assert_same_tables(faulty.root, undisturbed(faulty), list(range(9)))
    assert not faulty.left_over()
