"""Inputs of a study's verdict: its YAML, its module, and the history of its criteria."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from experiments.sweep.provenance import REPOSITORY, git

SWEEPS = REPOSITORY / "conf" / "sweep"
MODULES = REPOSITORY / "analysis" / "figures"
FIELD_REPORT = "field report"  # `source` of a sweep that answers a question, not a paper
SHARED_CODE = tuple(  # of several studies, on which verdicts depend
    REPOSITORY / "analysis" / name
    for name in (
        "scoring/effects.py",
        "scoring/null_models.py",
        "scoring/verdict.py",
        "figures/query.py",
        "figures/training_runs.py",
    )
)
WITHOUT_VERDICT = ("small", "paper", "diagnosis")  # sections that do not affect the verdict
WORDING = ("statement", "source", "smallest_source")  # texts of a claim that do not affect it


@dataclass(frozen=True)
class History:
    """Commits of a study's criteria, from git.

    Attributes
    ----------
    commit, date
        First commit with the present claims of the section `scoring`, apart from their wording,
        and its day; `not committed` if they differ from the last commit.
    later_changes
        Later commits that changed the sweep's YAML or the study's module, newest first.
    """

    commit: str
    date: str
    later_changes: tuple[str, ...]


def sweep_path(name: str) -> Path:
    """Return the path of a sweep's YAML."""
    return SWEEPS / f"{name}.yaml"


def sweep_definition(name: str) -> dict[str, Any]:
    """Read a sweep's YAML."""
    return dict(yaml.safe_load(sweep_path(name).read_text(encoding="utf-8")))


def scored_sweeps() -> list[str]:
    """Return the names of all sweeps with a section `scoring`, by year."""
    names = [
        path.stem for path in SWEEPS.glob("*.yaml") if "scoring" in sweep_definition(path.stem)
    ]
    return sorted(names, key=lambda name: (name[-4:], name))


def questions() -> list[str]:
    """Return the names of the scored sweeps that answer a question (`source: field report`)."""
    return [name for name in scored_sweeps() if sweep_definition(name)["source"] == FIELD_REPORT]


def publications() -> list[str]:
    """Return the names of the scored sweeps that reproduce a publication, by year."""
    answered = questions()
    return [name for name in scored_sweeps() if name not in answered]


def module_files(name: str) -> list[Path]:
    """Return the source files of a study's module."""
    package = MODULES / name
    return sorted(package.glob("*.py")) if package.is_dir() else [MODULES / f"{name}.py"]


def inputs_digest(name: str) -> str:
    """Return a digest of a study's YAML and module; comments and sizes do not change it."""
    definition = sweep_definition(name)
    kept = {key: value for key, value in definition.items() if key not in WITHOUT_VERDICT}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    for path in module_files(name):
        digest.update(_syntax(path))
    return digest.hexdigest()[:12]


@cache
def scoring_digest() -> str:
    """Return a digest of the code that all studies share to score their claims."""
    digest = hashlib.sha256()
    for path in SHARED_CODE:
        digest.update(_syntax(path))
    return digest.hexdigest()[:8]


def _syntax(path: Path) -> bytes:
    """Return a module's syntax tree, which comments and layout do not change."""
    return ast.dump(ast.parse(path.read_text(encoding="utf-8"))).encode()


def criteria(definition: Mapping[str, Any]) -> Any:
    """Return the claims of a sweep's YAML, without the pilot and the number of seeds."""
    return (definition.get("scoring") or {}).get("claims")


def _without_wording(claims: Any) -> Any:
    if claims is None:
        return None
    return {
        name: {key: value for key, value in claim.items() if key not in WORDING}
        for name, claim in claims.items()
    }


def criteria_changes(before: Any, after: Any) -> list[str]:
    """Describe how the claims changed: those added, removed, and with another criterion.

    Examples
    --------
    >>> old = {"a": {"statement": "A.", "smallest": 1}, "b": {"statement": "B.", "smallest": 1}}
    >>> criteria_changes(old, {"a": {"statement": "A.", "smallest": 2}})
    ['removed “B.”', '“A.”: smallest 1, now 2']
    """
    before, after = before or {}, after or {}
    changes = [f"removed “{c['statement']}”" for name, c in before.items() if name not in after]
    changes += [f"added “{c['statement']}”" for name, c in after.items() if name not in before]
    for name, claim in after.items():
        old = before.get(name, claim)
        fields = [key for key in {**old, **claim} if old.get(key) != claim.get(key)]
        if fields:
            described = ", ".join(_change(key, old.get(key), claim.get(key)) for key in fields)
            changes.append(f"“{claim['statement']}”: {described}")
    return changes


def _change(key: str, old: Any, new: Any) -> str:
    """Describe a changed field of a claim; long texts and lists are not repeated."""
    name = key.replace("_", " ")
    if isinstance(old, list) or isinstance(new, list) or key in ("statement", "smallest_source"):
        return f"other {name}" if key == "null_models" else f"{name} reworded"
    default = "t" if key == "interval" else "none"
    return f"{name} {default if old is None else old}, now {default if new is None else new}"


def scoring_history(name: str) -> History:
    """Return the commit of a study's present criteria, and the changes since."""
    path = sweep_path(name).relative_to(REPOSITORY)
    present = _without_wording(criteria(sweep_definition(name)))
    first = None
    for line in (git("log", "--format=%h %cs", "--", str(path)) or "").splitlines():
        commit, date = line.split()
        text = git("show", f"{commit}:{path}")
        if text is None or _without_wording(criteria(yaml.safe_load(text) or {})) != present:
            break
        first = commit, date
    if first is None:
        return History("not committed", "", ())
    module = (MODULES / name).relative_to(REPOSITORY)  # a package, which may have been a file
    files = [str(path), f"{module}.py", str(module)]
    log = git("log", "--format=%h %cs %s", f"{first[0]}..HEAD", "--", *files) or ""
    return History(*first, tuple(log.splitlines()))
