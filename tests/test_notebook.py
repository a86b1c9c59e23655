"""The executed notebook in docs/."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parents[1] / "docs" / "diagnose_cnn.ipynb"
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?|[±–~✗✓\s]+")


def code_cells(notebook: nbformat.NotebookNode) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def words(cell: Any) -> list[tuple[str, str]]:
    """Return the type and the text of each output, without numbers, spaces and line breaks.

    Expected times and progress, on stderr, depend on the machine.
    """
    outputs: dict[str, str] = {}
    for output in cell.outputs:
        if output.get("name") == "stderr":
            continue
        text = output.get("text") or output.data["text/plain"]
        outputs[output.output_type] = outputs.get(output.output_type, "") + NUMBER.sub("", text)
    return list(outputs.items())


def test_the_notebook_is_stored_with_its_outputs():
    cells = code_cells(nbformat.read(PATH, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not any(output.output_type == "error" for output in outputs)


@pytest.mark.slow
def test_the_notebook_runs_and_its_outputs_are_current(tmp_path):
    stored = nbformat.read(PATH, as_version=4)
    executed = nbformat.read(PATH, as_version=4)
    NotebookClient(
        executed, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()  # raises if a cell fails
    for new, old in zip(code_cells(executed), code_cells(stored), strict=True):
        assert words(new) == words(old)
    (training,) = [cell for cell in code_cells(executed) if "train_net(net)" in cell.source]
    text = "".join(output.text for output in training.outputs)
    before, after = map(float, re.findall(r"accuracy ([\d.]+)", text))
    assert after > before + 0.3
