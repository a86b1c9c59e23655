"""`python -m benchmarks`: names of sections, interrupted and failed sections, progress."""

import json

import pytest

from benchmarks import __main__ as command
from benchmarks.page import Table
from benchmarks.registry import NAMED_ONLY, SECTIONS
from benchmarks.results import read_results
from benchmarks.section import Case
from fanin.errors import ConfigError, FaninError


class FakeSection:
    """A section whose cases return their number or raise."""

    def __init__(self, *outcomes):
        self.outcomes = outcomes

    def check(self, settings):
        assert settings.folder.is_dir()

    def cases(self, settings):
        return [
            Case(f"case {n}", 1.0, lambda outcome=outcome: self.measure(outcome))
            for n, outcome in enumerate(self.outcomes)
        ]

    def measure(self, outcome):
        if isinstance(outcome, BaseException):
            raise outcome
        return {"value": outcome}

    def line(self, record):
        return f"value {record['value']}"

    def tables(self, records):
        return [Table("Values", ("value",), tuple((str(r["value"]),) for r in records))]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs fake sections, and the folder of the results."""

    def start(**sections):
        monkeypatch.setattr(command, "load_section", lambda name: sections[name])
        monkeypatch.setattr(command, "SECTIONS", dict.fromkeys(sections, ""))
        monkeypatch.setattr(command, "OUTPUT", tmp_path)
        return command.main(["--tiny"])

    return start


def test_the_nearest_name_of_a_section_is_suggested(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["trainig"])
    assert ended.value.code == 2
    assert "trainig: no such section; did you mean training? valid: " in capsys.readouterr().err


def test_sections_that_need_root_run_only_if_named():
    assert command.check_names([]) == list(SECTIONS)
    assert command.check_names(["slurm", "sweep", "slurm"]) == ["slurm", "sweep"]
    assert not set(NAMED_ONLY) & set(SECTIONS)
    with pytest.raises(ConfigError, match="did you mean report_page"):
        command.check_names(["report-page"])


def test_help_lists_the_sections(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in (*SECTIONS, *NAMED_ONLY))


def test_sections_are_stored_with_their_command_and_load(run, tmp_path, capsys):
    assert run(a=FakeSection(1, 2)) == 0
    (result,) = read_results(tmp_path, ["a", "absent"]).values()
    assert result.records == [{"value": 1}, {"value": 2}]
    assert (result.mode, result.command) == ("tiny", "python -m benchmarks --tiny")
    assert len(result.load) == 2
    captured = capsys.readouterr()
    assert "a 2/2: case 1: value 2" in captured.err
    assert "Values" in captured.out


def test_ctrl_c_keeps_the_finished_sections(run, tmp_path, capsys):
    sections = {"a": FakeSection(1), "b": FakeSection(2, KeyboardInterrupt()), "c": FakeSection(3)}
    assert run(**sections) == 130
    assert [path.name for path in tmp_path.glob("*.json")] == ["a.json"]
    assert "Interrupted in section b. Stored: a." in capsys.readouterr().err


def test_an_error_ends_only_its_section(run, tmp_path, capsys):
    assert run(a=FakeSection(FaninError("no cells")), b=FakeSection(1)) == 1
    assert json.loads((tmp_path / "b.json").read_text())["records"] == [{"value": 1}]
    assert not (tmp_path / "a.json").exists()
    assert "Section a failed: no cells" in capsys.readouterr().err


def test_the_remaining_time_is_scaled_by_the_time_so_far(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("benchmarks.__main__.time.perf_counter", lambda: now[0])
    timer = command.Timer(expected=100.0)
    timer.finish(20.0)
    now[0] = 40.0  # twice as slow as expected
    assert timer.left() == "3 min"  # 160 s
    timer.finish(40.0)
    assert timer.left() == "27 s"
    timer.skip_to(100.0)
    assert timer.left() == "0 s"
