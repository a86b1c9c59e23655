"""Sections of docs/reproductions.md."""

import pytest

from analysis.scoring.inputs import sweep_definition
from analysis.studies import reproductions
from fanin.errors import ConfigError


def test_a_diagnosis_of_no_claim_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = sweep_definition("he2015") | {"diagnosis": {"depth_makes_a_difference": "text"}}
    monkeypatch.setattr(reproductions, "sweep_definition", lambda name: definition)
    with pytest.raises(ConfigError, match="did you mean depth_makes_the_difference"):
        reproductions.make_section("he2015")
