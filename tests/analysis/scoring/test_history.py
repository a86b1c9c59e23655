"""The commit of a study's criteria, and later changes of its YAML and module."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from analysis.scoring import inputs
from experiments.sweep import provenance


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty repository in which `inputs` looks for studies."""
    for module in (inputs, provenance):
        monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(inputs, "SWEEPS", tmp_path / "conf" / "sweep")
    monkeypatch.setattr(inputs, "MODULES", tmp_path / "figures")
    git(tmp_path, "init", "--quiet")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True)


def commit(folder: Path, message: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def sweep(statement: str, smallest: float) -> dict[str, str]:
    claim = {"statement": statement, "effect": "difference", "smallest": smallest}
    return {"conf/sweep/study.yaml": yaml.safe_dump({"scoring": {"claims": {"he": claim}}})}


def subjects(history: inputs.History) -> list[str]:
    return [change.split(maxsplit=2)[2] for change in history.later_changes]


def test_another_criterion_begins_a_new_history(repository: Path) -> None:
    commit(repository, "loose", sweep("He is better.", 0.1))
    commit(repository, "strict", sweep("He is better.", 0.2))
    history = inputs.scoring_history("study")
    assert subjects(history) == []
    git(repository, "checkout", "--quiet", history.commit)
    assert "0.2" in (repository / "conf/sweep/study.yaml").read_text()


def test_another_wording_is_a_later_change(repository: Path) -> None:
    commit(repository, "criteria", sweep("He is better.", 0.1))
    commit(repository, "wording", sweep("He's init is better.", 0.1))
    assert subjects(inputs.scoring_history("study")) == ["wording"]


def test_a_module_that_becomes_a_package_keeps_its_history(repository: Path) -> None:
    commit(repository, "criteria", sweep("He is better.", 0.1))
    commit(repository, "figure", {"figures/study.py": ""})
    (repository / "figures" / "study.py").unlink()
    commit(repository, "package", {"figures/study/__init__.py": ""})
    assert subjects(inputs.scoring_history("study")) == ["package", "figure"]


def test_criteria_that_are_not_committed(repository: Path) -> None:
    commit(repository, "criteria", sweep("He is better.", 0.1))
    (repository / "conf/sweep/study.yaml").write_text(
        sweep("He is better.", 0.3)["conf/sweep/study.yaml"]
    )
    assert inputs.scoring_history("study").commit == "not committed"
