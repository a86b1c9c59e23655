"""Style of docstrings and names that ruff has no rule for (CONTRIBUTING.md, Style)."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fanin", "analysis", "experiments", "benchmarks", "slurm", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

QUESTION_WORDS = {"what", "whether", "how", "where", "which", "who"}
# Participles that do not name what a variable holds.
VAGUE_NAMES = {"told", "said", "mine", "asked", "made", "fed"}

Check = Callable[[ast.Module], Iterator[tuple[int, str]]]


def question_docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and first words of each docstring that begins with a question word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0].strip(",.:;?`").lower() in QUESTION_WORDS:
                yield node.body[0].lineno, " ".join(words[:6])


def vague_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and name of each variable, parameter or attribute with a vague name."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                pass
            case ast.Attribute(attr=name, ctx=ast.Store()):
                pass
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case _:
                continue
        if name.strip("_").lower() in VAGUE_NAMES:
            yield node.lineno, name


def violations(check: Check) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in FILES
        for line, text in check(ast.parse(path.read_text(), str(path)))
    ]


def test_no_docstring_begins_with_a_question_word() -> None:
    assert not violations(question_docstrings)


def test_no_variable_has_a_vague_name() -> None:
    assert not violations(vague_names)


def test_the_checks_find_violations() -> None:
    tree = ast.parse('def f(told):\n    """Whether it is so."""\n    self.asked = mine = 0\n')
    assert list(question_docstrings(tree)) == [(2, "Whether it is so.")]
    assert sorted(vague_names(tree)) == [(1, "told"), (3, "asked"), (3, "mine")]
