"""The digits equal scikit-learn's and are read without importing it."""

import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.data import Data, Digits
from experiments.data import digits as digits_module
from fanin.errors import DataError


def test_the_table_equals_that_of_scikit_learn():
    table, expected = digits_module.read_table(), load_digits()
    assert np.array_equal(table[:, :-1], expected.data)
    assert np.array_equal(table[:, -1], expected.target)


def test_scikit_learn_is_not_imported():
    code = (
        "import sys; from experiments.data import Data, Digits; Data(Digits()).load(); "
        "print([name for name in sys.modules if name.startswith('sklearn')])"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_another_table_is_refused(monkeypatch):
    monkeypatch.setattr(digits_module, "TABLE", "sklearn/datasets/data/iris.csv")
    with pytest.raises(DataError, match=r"iris.csv: not the file of scikit-learn's digits"):
        Data(Digits()).prepare()


def test_the_error_names_a_missing_table(monkeypatch):
    monkeypatch.setattr(digits_module, "TABLE", "sklearn/datasets/data/none.csv.gz")
    with pytest.raises(DataError, match=r"none.csv.gz.*\n.*\n.*No such file"):
        Data(Digits()).prepare()


def test_the_error_names_a_missing_package(monkeypatch):
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(digits_module.metadata, "distribution", missing)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        Data(Digits()).load()
