"""Packs: large enough to share, small enough to lose little, the longest first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from experiments.sweep.plan import (
    MAX_PACK_SECONDS,
    MAX_SERIAL_CELLS,
    MAX_STACKED_CELLS,
    PACKS_PER_WORKER,
    PackLimits,
    make_packs,
)
from experiments.sweep.types import Pack, PackedCell


def groups_of(sizes: dict[str, int]) -> dict[str, list[PackedCell]]:
    return {
        key: [PackedCell(f"{key}{n}", 1, {}, {}) for n in range(size)]
        for key, size in sizes.items()
    }


def packs_of(
    sizes: dict[str, int], seconds: dict[str, float], bounds: PackLimits, engine: str = "serial"
) -> tuple[Pack, ...]:
    engines = dict.fromkeys(sizes, engine)
    return make_packs(groups_of(sizes), engines, seconds, lambda _: 1000, bounds)


sizes = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 300), min_size=1)
times = st.fixed_dictionaries({key: st.floats(1e-4, 1e4) for key in "abcdef"})


@given(sizes, times, st.integers(1, 16), st.sampled_from(["serial", "stacked"]))
def test_every_cell_is_in_one_pack_with_its_like(sizes, seconds, workers, engine):
    packs = packs_of(sizes, seconds, PackLimits(workers), engine)
    ids = [task.cell_id for pack in packs for task in pack.cells]
    assert sorted(ids) == sorted(t.cell_id for tasks in groups_of(sizes).values() for t in tasks)
    assert all(len({task.cell_id[0] for task in pack.cells}) == 1 for pack in packs)
    most = MAX_SERIAL_CELLS if engine == "serial" else MAX_STACKED_CELLS
    assert all(1 <= len(pack.cells) <= most for pack in packs)


@given(sizes, times, st.integers(1, 16))
def test_the_longest_come_first(sizes, seconds, workers):
    packs = packs_of(sizes, seconds, PackLimits(workers))
    work = [len(pack.cells) * seconds[pack.cells[0].cell_id[0]] for pack in packs]
    assert work == sorted(work, reverse=True)


@given(sizes, times, st.integers(1, 16))
def test_no_serial_pack_holds_more_work_than_is_good(sizes, seconds, workers):
    packs = packs_of(sizes, seconds, PackLimits(workers))
    for pack in packs:
        work = seconds[pack.cells[0].cell_id[0]]
        assert len(pack.cells) == 1 or len(pack.cells) * work <= MAX_PACK_SECONDS


def test_workers_get_several_packs_so_that_all_end_together():
    packs = packs_of({"a": 1000}, {"a": 0.1}, PackLimits(workers=4))
    assert len(packs) >= PACKS_PER_WORKER * 4


def test_a_stack_is_as_large_as_memory_and_workers_allow():
    def largest(size: int, **bounds: int) -> int:
        packs = packs_of({"a": size}, {"a": 1.0}, PackLimits(**bounds), "stacked")
        return max(len(pack.cells) for pack in packs)

    assert largest(1000, workers=2) == MAX_STACKED_CELLS
    assert largest(1000, workers=2, stack_bytes=10_500) == 10
    assert largest(1000, workers=2, stack_bytes=10) == 1  # one must run all the same
    assert largest(40, workers=4) == 10
    assert largest(3, workers=4) == 2  # a network alone would only have copies for company
    assert largest(1000, workers=2, cells=7) == 7
