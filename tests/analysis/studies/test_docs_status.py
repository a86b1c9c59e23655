"""Provenance of the generated blocks of docs/."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.scoring.inputs import inputs_digest, scored_sweeps
from analysis.studies import docs_status
from analysis.studies.blocks import Block, Stamp, read_blocks
from analysis.studies.docs_status import DOCS, block_inputs, problems, status_line
from experiments.sweep.provenance import git

HAS_HISTORY = (git("rev-parse", "--is-shallow-repository") or "").strip() == "false"
needs_history = pytest.mark.skipif(not HAS_HISTORY, reason="needs the history of the repository")
BLOCKS = {f"{block.page.relative_to(DOCS)}:{block.name}": block for block in read_blocks(DOCS)}


@needs_history
@pytest.mark.parametrize("where", BLOCKS)
def test_every_generated_block_has_its_provenance(where: str) -> None:
    assert list(problems(BLOCKS[where])) == []


def test_every_study_has_a_block() -> None:
    assert {block.name for block in BLOCKS.values()} >= set(scored_sweeps())


@pytest.fixture
def block() -> Block:
    commit = (git("rev-parse", "--short=12", "HEAD") or "").strip()
    command = "python -m analysis.studies.reproductions"
    stamp = Stamp(command, commit, "2026-11-30", block_inputs("he2015"))
    return Block(DOCS / "reproductions.md", "he2015", stamp, "text")


@needs_history
def test_a_current_block_has_no_problem(block: Block) -> None:
    assert list(problems(block)) == []


@needs_history
@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"command": ""}, "no command"),
        ({"commit": ""}, "no commit"),
        ({"date": ""}, "no date"),
        ({"commit": "0123456789ab"}, "commit 0123456789ab is not in the history"),
        ({"inputs": "0123"}, "YAML, module, summary or scoring changed since"),
    ],
)
def test_each_problem_is_named(block: Block, changed: dict[str, str], problem: str) -> None:
    (found,) = problems(replace(block, stamp=replace(block.stamp, **changed)))
    assert found.startswith(problem)
    assert problem in status_line(replace(block, stamp=replace(block.stamp, **changed)))


@needs_history
def test_changed_inputs_are_files_that_changed_since_the_commit(block: Block) -> None:
    first = (git("rev-list", "--max-parents=0", "HEAD") or "").split()[0]
    old = replace(block, stamp=replace(block.stamp, commit=first))
    assert "conf/sweep/he2015.yaml" in docs_status.changed_inputs(old)
    assert f"changed since: {docs_status.changed_inputs(old)[0]}" in status_line(old)


def test_comments_and_sizes_do_not_change_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, module = tmp_path / "he2015.yaml", tmp_path / "he2015.py"
    monkeypatch.setattr("analysis.scoring.inputs.SWEEPS", tmp_path)
    monkeypatch.setattr("analysis.scoring.inputs.MODULES", tmp_path)
    sweep.write_text("grid: {seed: [0]}\n")
    module.write_text("X = 1\n")
    before = inputs_digest("he2015")
    sweep.write_text("grid: {seed: [0]}  # one\nsmall: {}\ndiagnosis: {}\n")
    module.write_text("X = 1  # one\n")
    assert inputs_digest("he2015") == before
    module.write_text("X = 2\n")
    assert inputs_digest("he2015") != before
    module.write_text("X = 1\n")
    sweep.write_text("grid: {seed: [1]}\n")
    assert inputs_digest("he2015") != before
