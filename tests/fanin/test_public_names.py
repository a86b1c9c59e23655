"""The lazily imported names of the package `fanin`."""

import ast
from pathlib import Path

import fanin


def test_every_public_name_can_be_imported():
    assert all(getattr(fanin, name).__name__ == name for name in fanin.__all__)


def test_type_checkers_see_the_public_names():
    tree = ast.parse(Path(fanin.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (statement.module, alias.name)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert imported == {(module, name) for name, module in fanin._MODULES.items()}
