"""Sections of docs/reproductions.md."""

import re
from dataclasses import replace

import pytest

from analysis.scoring.inputs import inputs_digest, publications, sweep_definition
from analysis.scoring.summary import read_summary, summaries
from analysis.studies import reproductions
from experiments.sweep.provenance import REPOSITORY
from fanin.errors import ConfigError


def test_a_diagnosis_of_no_claim_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = sweep_definition("he2015") | {"diagnosis": {"depth_makes_a_difference": "text"}}
    monkeypatch.setattr(reproductions, "sweep_definition", lambda name: definition)
    with pytest.raises(ConfigError, match="did you mean depth_makes_the_difference"):
        reproductions.make_section("he2015")


def test_a_summary_of_an_earlier_yaml_or_module_says_so() -> None:
    summary = read_summary("he2015")
    about = dict(summary.about)
    current = replace(summary, about=about | {"inputs": inputs_digest("he2015")})
    earlier = replace(summary, about=about | {"inputs": "0123456789ab"})
    warning = "The study's YAML or module changed after"
    assert warning not in reproductions.provenance(current)
    assert warning in reproductions.provenance(earlier)


def test_the_page_states_the_range_of_training_times() -> None:
    text = (REPOSITORY / "docs" / "reproductions.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"train for (\d+) to (\d+) minutes", text)
    run = sorted(set(publications()) & set(summaries()))
    minutes = [read_summary(name).about["seconds"] / 60 for name in run]
    assert [int(n) for n in stated] == [round(min(minutes)), round(max(minutes))]
