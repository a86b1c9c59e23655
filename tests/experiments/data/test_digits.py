"""The digits are scikit-learn's, read without importing it."""

import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.data import Data, Digits
from experiments.data import digits as room
from fanin.errors import DataError


def test_the_table_is_what_scikit_learn_reads():
    table, theirs = room.read_table(), load_digits()
    assert np.array_equal(table[:, :-1], theirs.data)
    assert np.array_equal(table[:, -1], theirs.target)


def test_scikit_learn_is_not_imported():
    code = (
        "import sys; from experiments.data import Data, Digits; Data(Digits()).load(); "
        "print([name for name in sys.modules if name.startswith('sklearn')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_another_table_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(room, "TABLE", "sklearn/datasets/data/iris.csv")
    with pytest.raises(DataError, match=r"iris.csv: not the file of scikit-learn's digits"):
        Data(Digits()).prepare()


def test_a_table_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(room, "TABLE", "sklearn/datasets/data/none.csv.gz")
    with pytest.raises(DataError, match=r"none.csv.gz.*\n.*\n.*No such file"):
        Data(Digits()).prepare()


def test_without_the_package_it_says_what_to_install(monkeypatch):
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(room.metadata, "distribution", missing)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        Data(Digits()).load()
