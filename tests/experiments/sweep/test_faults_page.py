"""docs/appendix/faults.md lists exactly the faults that these tests inject."""

from fault_rows import faults, faults_on_page


def test_page_lists_exactly_the_tested_faults() -> None:
    assert faults_on_page() == faults()
    assert len(set(faults())) == len(faults())
