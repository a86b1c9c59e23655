"""Packing of cells: sizes and order of packs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from experiments.sweep.plan import (
    MAX_PACK_SECONDS,
    MAX_SERIAL_CELLS,
    PACKS_PER_WORKER,
    PackLimits,
    make_packs,
)
from experiments.sweep.types import Pack, PackedCell
from experiments.training.stack_size import MAX_ON_CPU


def groups_of(sizes: dict[str, int]) -> dict[str, list[PackedCell]]:
    return {
        key: [PackedCell(f"{key}{n}", 1, {}, {}) for n in range(size)]
        for key, size in sizes.items()
    }


def packs_of(
    sizes: dict[str, int], seconds: dict[str, float], limits: PackLimits, engine: str = "serial"
) -> tuple[Pack, ...]:
    engines = dict.fromkeys(sizes, engine)
    return make_packs(groups_of(sizes), engines, seconds, lambda _: 1000, limits)


sizes = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 300), min_size=1)
times = st.fixed_dictionaries({key: st.floats(1e-4, 1e4) for key in "abcdef"})


@given(sizes, times, st.integers(1, 16), st.sampled_from(["serial", "stacked"]))
def test_every_cell_is_in_one_pack_of_its_group(sizes, seconds, workers, engine):
    packs = packs_of(sizes, seconds, PackLimits(workers), engine)
    ids = [cell.cell_id for pack in packs for cell in pack.cells]
    assert sorted(ids) == sorted(c.cell_id for cells in groups_of(sizes).values() for c in cells)
    assert all(len({cell.cell_id[0] for cell in pack.cells}) == 1 for pack in packs)
    max_cells = MAX_SERIAL_CELLS if engine == "serial" else MAX_ON_CPU
    assert all(1 <= len(pack.cells) <= max_cells for pack in packs)


@given(sizes, times, st.integers(1, 16))
def test_longest_packs_come_first(sizes, seconds, workers):
    packs = packs_of(sizes, seconds, PackLimits(workers))
    pack_seconds = [len(pack.cells) * seconds[pack.cells[0].cell_id[0]] for pack in packs]
    assert pack_seconds == sorted(pack_seconds, reverse=True)


@given(sizes, times, st.integers(1, 16))
def test_serial_packs_are_short_enough(sizes, seconds, workers):
    packs = packs_of(sizes, seconds, PackLimits(workers))
    for pack in packs:
        cell_seconds = seconds[pack.cells[0].cell_id[0]]
        assert len(pack.cells) == 1 or len(pack.cells) * cell_seconds <= MAX_PACK_SECONDS


def test_each_worker_gets_several_packs():
    packs = packs_of({"a": 1000}, {"a": 0.1}, PackLimits(workers=4))
    assert len(packs) >= PACKS_PER_WORKER * 4


def test_stack_size_follows_memory_and_workers():
    def largest(size: int, **limits: int) -> int:
        packs = packs_of({"a": size}, {"a": 1.0}, PackLimits(**limits), "stacked")
        return max(len(pack.cells) for pack in packs)

    assert largest(1000, workers=2) == MAX_ON_CPU
    assert largest(1000, workers=2, stack_bytes=10_500) == 10
    assert largest(1000, workers=2, stack_bytes=10) == 1  # a stack has at least one cell
    assert largest(40, workers=4) == 10
    assert largest(3, workers=4) == 2  # a stack of one would be padded with copies
    assert largest(1000, workers=2, cells=7) == 7
