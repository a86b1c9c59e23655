"""docs/appendix/faults.md lists the faults that these tests bring about, and no others."""

from fault_rows import faults, listed


def test_the_page_lists_exactly_the_faults_that_are_tested() -> None:
    assert listed() == faults()
    assert len(set(faults())) == len(faults())
