"""Damaged files of a sweep: named, and their cells computed again."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fault_rows import Record, fault, rerun, run_inline
from sweep_process import Site

from experiments.sweep.store.tables import read_states

CELLS, PACK = 6, 2
GRID = (f"init.number=range({CELLS})", f"runner.pack_cells={PACK}")


def noise(at: float) -> Callable[[bytes], bytes]:
    """Damage 64 bytes at a place in a file."""

    def damage(data: bytes) -> bytes:
        start = int(at * (len(data) - 64))
        return data[:start] + os.urandom(64) + data[start + 64 :]

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    fault("a truncated part file of `cells` or `layers`"): lambda data: data[: len(data) // 2],
    fault("an empty part file of `cells` or `layers`"): lambda data: b"",
    fault("a part file of `cells` or `layers` with random bytes at its start"): noise(0.0),
    fault("a part file of `cells` or `layers` with random bytes in its middle"): noise(0.5),
    fault("a part file of `cells` or `layers` with random bytes at its end"): noise(1.0),
}


def test_damaged_pack_is_quarantined_and_runs_again(
    faulty: Site, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_inline(faulty, *GRID) == 0
    second_run = {}
    for damage, damage_data in DAMAGES.items():
        stems = sorted(path.stem for path in faulty.folder.table("cells").glob("*.parquet"))
        damaged = [
            faulty.folder.table(table) / f"{stem}.parquet"
            for table, stem in zip(("cells", "layers"), stems, strict=False)
        ]
        for path in damaged:
            path.write_bytes(damage_data(path.read_bytes()))
        capsys.readouterr()
        second_run[damage] = rerun(faulty, *GRID, cells=CELLS)
        output = capsys.readouterr().out.replace("\n", "")
        assert f"{CELLS} cells: {CELLS - 2 * PACK} done, {2 * PACK} missing" in output
        for path in damaged:
            assert str(path) in output
            assert (faulty.folder.quarantine / path.parent.name / path.name).exists()
    for damage in DAMAGES:
        first_run = (
            f"reported; the files of its pack are moved to `quarantine/`, and its {PACK} cells are "
            "missing"
        )
        record(damage, first_run, second_run[damage])


def test_foreign_file_is_named_and_left_alone(
    faulty: Site, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_inline(faulty, *GRID) == 0
    foreign = [
        faulty.folder.table("cells") / "notes.txt",
        faulty.folder.table("layers") / "x.parquet",
    ]
    for path in foreign:
        path.write_text("Tuesday")
    capsys.readouterr()
    with pytest.warns(match="Skipped these files"):
        second_run = rerun(faulty, *GRID, cells=CELLS)
    output = capsys.readouterr().out.replace("\n", "")
    assert all(str(path) in output for path in foreign)
    assert f"{CELLS} done" in output
    assert [path.read_text() for path in foreign] == ["Tuesday", "Tuesday"]
    record(
        fault("a foreign file in the folders of `cells` and `layers`"),
        "reported and not changed",
        second_run,
    )


TORN = {
    fault(
        "`sweep.yaml` truncated"
    ): "what is left of the file is kept; the next launch appends its record",
    fault(
        "`cells.jsonl` truncated"
    ): "complete lines are kept; the next launch writes the others again",
    fault("`launcher.json` truncated"): "the next launch ignores the unreadable lock file",
}


def test_truncated_text_file_is_repaired(
    faulty: Site, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_inline(faulty, *GRID) == 0
    for cells, (what, first_run) in enumerate(TORN.items(), start=CELLS + 1):
        path = faulty.folder.root / what.split("`")[1]
        data = path.read_bytes() if path.exists() else b'{"host": "elsewhere", "pid": 1234}'
        path.write_bytes(data[: len(data) * 2 // 3])
        grown = (f"init.number=range({cells})", GRID[1])
        second_run = rerun(faulty, *grown, cells=cells)
        assert f"{cells} cells: {cells - 1} done, 1 missing" in capsys.readouterr().out
        assert len(faulty.folder.plan.read_text().splitlines()) == cells
        record(what, first_run, second_run)
    launches = faulty.folder.provenance.read_text().split("\n---\n")
    assert [yaml.safe_load(text)["cells"] for text in launches[1:]] == [
        CELLS + 1,
        CELLS + 2,
        CELLS + 3,
    ]


def test_truncated_journal_keeps_its_committed_lines(
    faulty: Site, record: Record, tmp_path: Path
) -> None:
    faulty.write_file("step-4", "kill")
    arguments = (f"init.number=range({CELLS})", f"runner.pack_cells={CELLS}")
    launcher = multiprocessing.get_context("fork").Process(
        target=run_inline, args=(faulty, *arguments)
    )
    launcher.start()
    launcher.join()
    assert launcher.exitcode == -signal.SIGKILL
    faulty.remove_files("step-4")
    (journal,) = faulty.folder.journals.iterdir()
    data = journal.read_bytes()
    ends = [at for at, byte in enumerate(data) if byte == ord("\n")]
    cuts = (0, len(data) // 2, ends[-2], ends[-2] + 1)  # test_journal.py truncates at every byte
    for number, cut in enumerate(cuts):
        copy = tmp_path / "copies" / str(number)
        shutil.copytree(faulty.folder.root, copy / "s")
        site = replace(faulty, results_root=copy)
        (site.folder.journals / journal.name).write_bytes(data[:cut])
        done = sum(line.startswith(b"done") for line in data[:cut].split(b"\n")[:-1])
        assert len([s for s in read_states(site.folder).values() if s.outcome == "ok"]) == done
        second_run = rerun(site, *arguments, cells=CELLS)
    record(
        fault("a journal that ends in the middle of a line"),
        "the cells of its complete lines are kept",
        second_run,
    )
