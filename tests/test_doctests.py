"""Run the examples in docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import analysis
import benchmarks
import experiments
import fanin

MODULES = [
    module.name
    for package in (fanin, experiments, analysis, benchmarks)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_pass(name: str):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(name), optionflags=options).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    doctests = [finder.find(importlib.import_module(name)) for name in MODULES]
    assert sum(bool(test.examples) for tests in doctests for test in tests) > 50
