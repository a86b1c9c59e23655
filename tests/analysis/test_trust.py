"""Analysis imports no code that a sweep from another clone names, unless it is told to."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from analysis import load
from analysis.check import __main__ as check
from analysis.compare import __main__ as compare
from analysis.report import __main__ as report
from experiments.config import trust
from experiments.config.trust import foreign_targets
from experiments.sweep import clone
from experiments.sweep.clone import untrusted_targets
from experiments.sweep.store.paths import SweepFolder
from fanin.errors import FaninWarning
from tests.analysis.small_sweep import run_sweep

MODULE = """
from dataclasses import dataclass
from pathlib import Path
from experiments.data import Digits
from fanin.inits import Normal

with Path({log!r}).open("a") as file:
    file.write("imported")


class OwnNormal(Normal):
    pass


class OwnDigits(Digits):
    pass
"""
OVERRIDES = (
    *("init=custom", "init._target_=own_code.OwnNormal", "++init.std=0.1,0.2"),
    "data._target_=own_code.OwnDigits",
)
LINE = (
    "not run from this clone, so fanin does not import own_code.OwnDigits, own_code.OwnNormal; if "
    "you trust its author, add --trust"
)
COMMANDS: dict[str, ModuleType] = {"check": check, "compare": compare, "report": report}


class Sent:
    """A sweep with the author's own code, as somebody else receives it."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self._log = folder, log

    def imports_in(self, function: Callable[[], object]) -> bool:
        """Return True if calling the function imports the author's module."""
        sys.modules.pop("own_code", None)
        self._log.write_text("")
        function()
        return self._log.read_text() != ""

    def run(self, command: str, *flags: str) -> None:
        """Run a command on the sweep; its exit status is 0, or 1 if theory disagrees."""
        try:
            COMMANDS[command].main([self.folder.name, "--results", str(self.folder.parent), *flags])
        except SystemExit as error:
            if error.code not in (0, 1):
                raise


@pytest.fixture
def own_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    log = tmp_path / "log"
    (tmp_path / "own_code.py").write_text(MODULE.format(log=str(log)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trust, "_blocked", set())
    monkeypatch.setattr(clone, "KEY_FILE", tmp_path / "author" / "key")
    (tmp_path / "author").mkdir()
    run_sweep(tmp_path, "sent", *OVERRIDES, "seed=range(3)")
    yield Sent(tmp_path / "sent", log)
    sys.modules.pop("own_code", None)


@pytest.fixture
def sent(own_sweep: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sent:
    (tmp_path / "reader").mkdir()
    monkeypatch.setattr(clone, "KEY_FILE", tmp_path / "reader" / "key")
    clone.sign_targets([{"_target_": "another.Target"}])  # this clone has run sweeps of its own
    return own_sweep


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_import_nothing_from_another_clone_and_say_so(
    command: str, sent: Sent, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--metric", "test_loss") if command == "compare" else ()
    assert not sent.imports_in(lambda: sent.run(command, *flags))
    printed = capsys.readouterr()
    assert [LINE in line for line in printed.err.splitlines()] == [True]
    if command == "check":
        assert "own_code.OwnDigits is not imported without --trust" in printed.out


@pytest.mark.parametrize("command", COMMANDS)
def test_trust_allows_the_import(
    command: str, sent: Sent, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(FaninWarning, match=LINE):
        load(sent.folder)
    assert sent.imports_in(lambda: sent.run(command, "--trust"))
    assert "not run from this clone" not in capsys.readouterr().err


def test_compare_says_what_needs_the_import(sent: Sent, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sent.run("compare")
    assert "needs the number of classes, but data._target_=own_code.OwnDigits is not imported" in (
        capsys.readouterr().err
    )


def test_load_says_that_it_imports_nothing(sent: Sent) -> None:
    with pytest.warns(FaninWarning, match=LINE):
        assert not sent.imports_in(lambda: load(sent.folder))
    load(sent.folder, trust=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_clone_that_ran_the_sweep_imports_its_code(
    command: str, own_sweep: Sent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_sweep.folder.rename(tmp_path / "renamed")
    own_sweep.folder = tmp_path / "renamed"
    assert own_sweep.imports_in(lambda: own_sweep.run(command))
    assert "not run from this clone" not in capsys.readouterr().err


def test_a_signature_is_not_valid_for_another_target(own_sweep: Sent) -> None:
    folder = SweepFolder(own_sweep.folder)
    plan = [json.loads(line) for line in folder.plan.read_text().splitlines()]
    configs = [record["config"] for record in plan]
    assert untrusted_targets(folder, configs) == []
    (launch,) = yaml.safe_load_all(folder.provenance.read_text())
    launch["targets"]["os.system"] = launch["targets"]["own_code.OwnNormal"]
    folder.provenance.write_text(yaml.safe_dump(launch))
    forged = [*configs, {"init": {"layers": {"fc": {"_target_": "os.system"}}}}]
    assert untrusted_targets(folder, forged) == ["os.system"]
    folder.provenance.write_text("- [")
    assert untrusted_targets(folder, configs) == ["own_code.OwnDigits", "own_code.OwnNormal"]


@pytest.mark.parametrize(
    ("target", "is_foreign"),
    [
        ("torch.nn.ReLU", False),  # an option of conf/
        ("torch.nn.Mish", True),
        ("fanin.inits.Normal", False),
        ("experiments.data.Arrays", False),
        ("experiments.atomic_write.atomic_write", True),  # a function that writes files
        ("experiments.data.fetch.FileLock", True),  # a class of another library
        ("experiments.no_such_module.Name", True),
        ("own_code.OwnNormal", True),
    ],
)
def test_foreign_targets(target: str, is_foreign: bool) -> None:
    configs = [{"model": {"nested": [{"_target_": target}]}}]
    assert (foreign_targets(configs) == {target}) == is_foreign


def test_a_clone_without_a_writable_folder_signs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clone, "KEY_FILE", tmp_path / "missing" / "key")
    assert clone.sign_targets([{"_target_": "own_code.OwnNormal"}]) == {}
