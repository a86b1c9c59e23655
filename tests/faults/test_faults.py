"""The planted faults can be applied to the current code."""

from pathlib import Path

import pytest
import yaml

from tests.faults.run import substitute

HERE = Path(__file__).parent
FAULTS = yaml.safe_load((HERE / "faults.yaml").read_text())


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["id"])
def test_a_fault_can_be_applied(fault):
    change = fault["new"]
    text = (HERE.parents[1] / change["file"]).read_text()
    assert substitute(text, change) != text


def test_a_fault_with_missing_text_is_an_error():
    with pytest.raises(ValueError, match="found 0 times"):
        substitute("x = 1\n", {"file": "f.py", "old": "y", "new": "z"})
