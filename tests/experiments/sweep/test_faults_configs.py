"""A hundred invalid commands: each fails before anything runs and names the fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_rows import Record, fault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_command_refused import COUNTS, NUMBERS, OPTIONS, invalid_override

from experiments.sweep.cli import check_command, run_command
from fanin.errors import ConfigError

EXAMPLES = 100
VALID = (
    ("optim.lr=0.1,0.01", "seed=range(3)"),
    ("init=he_normal,xavier_normal", "model=mlp", "model.width=8", "train.steps=2"),
    ("sweep=he_vs_glorot",),
    ("activation=tanh,relu", "optim=adam", "clip=norm", "probe.draws=2"),
)
MAX_LINES = 4

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
def any_invalid_override(draw: Any, catalog: Any) -> tuple[str, tuple[str, ...]]:
    """Draw an invalid override, and texts; the first line of its error must contain one."""
    kind = draw(st.sampled_from(["wrong", "odd key", "odd value", "nested", "setting"]))
    key = draw(st.sampled_from(NUMBERS + COUNTS))
    if kind == "wrong":
        text, fault = draw(invalid_override(catalog))
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


def error_of(
    loader: Any, arguments: list[str], results: Path, read_output: Callable[[], str]
) -> str:
    """Return the error message of a refused command."""
    try:
        checked = check_command(loader, "config", arguments, multirun=True)
    except ConfigError as error:  # which `check_argv` prints before it ends with status 2
        return f"{error}\n"
    options = [f"sweep.results={results}", "runner=inline"]
    assert run_command(loader, "config", [*checked, *options]) == 2
    return read_output()


def test_invalid_commands_fail_before_anything_runs(
    loader: Any,
    catalog: Any,
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
        word, faults = data.draw(any_invalid_override(catalog))
        key = word.partition("=")[0].lstrip("+~")
        arguments = [w for w in data.draw(st.sampled_from(VALID)) if w.partition("=")[0] != key]
        arguments.insert(data.draw(st.integers(0, len(arguments))), word)
        output = error_of(loader, arguments, results, lambda: capsys.readouterr().err)
        first = output.partition("\n")[0]
        assert any(fault in first for fault in faults), (arguments, output)
        assert output.endswith("\n")
        assert len(output.splitlines()) <= MAX_LINES, output
        assert not results.exists()
        seen += 1

    check()
    assert seen >= EXAMPLES
    first_run = f"exit 2 before anything runs; at most {MAX_LINES} lines, the first names the error"
    record(fault("100 random invalid commands"), first_run, "the same")
