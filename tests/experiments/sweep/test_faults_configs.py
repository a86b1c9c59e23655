"""A hundred commands that can't be meant: each dies before anything runs, naming its fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_rows import Record, fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_command_refused import COUNTS, NUMBERS, OPTIONS, wrong

from experiments.sweep.cli import check_command, run_command
from fanin.errors import ConfigError

EXAMPLES = 100
VALID = (
    ("optim.lr=0.1,0.01", "seed=range(3)"),
    ("init=he_normal,xavier_normal", "model=mlp", "model.width=8", "train.steps=2"),
    ("sweep=he_vs_glorot",),
    ("activation=tanh,relu", "optim=adam", "clip=norm", "probe.draws=2"),
)
LINES = 4  # most that is said

odd = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], min_codepoint=0xA1),
    min_size=1,
    max_size=6,
)
nested = st.recursive(
    st.sampled_from(["1", "x", "null", "true"]),
    lambda inner: st.one_of(
        inner.map("[{}]".format),
        inner.map("{{a:{}}}".format),
        st.tuples(inner, inner).map(lambda two: "[{},{}]".format(*two)),
    ),
    max_leaves=4,
).filter(lambda text: text.startswith(("[", "{")))


@st.composite
def unmeant(draw: Any, space: Any) -> tuple[str, tuple[str, ...]]:
    """A word that can't be meant, and what the first line about it has to name (any of it)."""
    kind = draw(st.sampled_from(["wrong", "odd key", "odd value", "nested", "setting"]))
    key = draw(st.sampled_from(NUMBERS + COUNTS))
    if kind == "wrong":
        text, fault = draw(wrong(space))
        return text, (fault,)
    if kind == "odd key":
        strange = draw(odd)
        return f"{strange}=1", (strange, strange.encode("unicode_escape").decode())
    if kind == "odd value":
        strange = draw(odd)
        return f"{key}={strange}", (key, strange)
    if kind == "nested":
        name = draw(st.sampled_from([*NUMBERS, *COUNTS, *OPTIONS, "sweep.name", "engine"]))
        return f"{name}={draw(nested)}", (name,)
    name = draw(st.sampled_from(["runner.cell_seconds", "engine", "sweep.mode", "sweep.retry"]))
    return f"{name}={draw(st.sampled_from(['-1', 'x', '[x]', 'true']))}", (name,)


def refused(loader: Any, words: list[str], results: Path, said: Callable[[], str]) -> str:
    """What a command that is refused says, as `python -m experiments.run -m` would."""
    try:
        checked = check_command(loader, "config", words, multirun=True)
    except ConfigError as error:  # which `check_argv` prints before it ends with status 2
        return f"{error}\n"
    where = [f"sweep.results={results}", "runner=inline"]
    assert run_command(loader, "config", [*checked, *where]) == 2
    return said()


def test_a_hundred_wrong_commands_die_before_anything_runs(
    loader: Any,
    space: Any,
    tmp_path: Path,
    record: Record,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results"
    seen = 0

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        nonlocal seen
        word, faults = data.draw(unmeant(space))
        key = word.partition("=")[0].lstrip("+~")
        words = [w for w in data.draw(st.sampled_from(VALID)) if w.partition("=")[0] != key]
        words.insert(data.draw(st.integers(0, len(words))), word)
        said = refused(loader, words, results, lambda: capsys.readouterr().err)
        first = said.partition("\n")[0]
        assert any(fault in first for fault in faults), (words, said)
        assert said.endswith("\n")
        assert len(said.splitlines()) <= LINES, said
        assert not results.exists()
        seen += 1

    check()
    assert seen >= EXAMPLES
    happened = f"exit 2 before anything runs; at most {LINES} lines, the first names the fault"
    record(fault("100 random commands that can't be meant"), happened, "the same")
