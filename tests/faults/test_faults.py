"""The planted faults apply to the code as it is today."""

from pathlib import Path

import pytest
import yaml

from tests.faults.run import substituted

HERE = Path(__file__).parent
FAULTS = yaml.safe_load((HERE / "faults.yaml").read_text())


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["id"])
def test_a_fault_applies(fault):
    change = fault["new"]
    text = (HERE.parents[1] / change["file"]).read_text()
    assert substituted(text, change) != text


def test_a_fault_whose_text_is_gone_is_an_error():
    with pytest.raises(ValueError, match="found 0 times"):
        substituted("x = 1\n", {"file": "f.py", "old": "y", "new": "z"})
