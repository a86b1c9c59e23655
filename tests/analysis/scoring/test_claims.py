"""Tests of the section `scoring` of a sweep's YAML."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.scoring.claims import parse_scoring
from fanin.errors import ConfigError

CLAIM: dict[str, Any] = {
    "main": True,
    "statement": "A beats B.",
    "source": "paper, section 3",
    "effect": "difference",
    "direction": "above",
    "smallest": 0.1,
    "smallest_source": "our choice",
    "null_models": ["constant", "shuffled", "trend in depth"],
}
SECTION: dict[str, Any] = {
    "seeds": 3,
    "seeds_reason": "90 % power",
    "sizes": {"theirs": "large", "ours": "small"},
    "claims": {"a": CLAIM},
    "pilot": {"seeds": [100], "date": "2026-11-30", "result": "sd 0.1"},
}


def test_a_valid_section() -> None:
    scoring = parse_scoring(SECTION, "demo")
    assert scoring.main == "a"
    assert scoring.claims["a"].criterion == "above 0.1 (our choice)"
    assert scoring.pilot is not None
    assert scoring.pilot.seeds == (100,)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("direction", "abve", r"demo\.scoring\.claims\.a\.direction.*above"),
        ("smallest_source", "folklore", "a source begins with 'paper, SECTION'"),
        ("source", "paper", "a source begins with 'paper, SECTION'"),
        ("null_models", [], "must name at least one of constant"),
        ("interval", "normal", r"interval.*invalid value 'normal'"),
        ("main", False, "exactly one claim must have `main: true`, got none"),
        ("smalest", 0.1, r"smalest.*did you mean smallest"),
    ],
)
def test_an_invalid_claim_is_refused(key: str, value: object, message: str) -> None:
    section = SECTION | {"claims": {"a": CLAIM | {key: value}}}
    with pytest.raises(ConfigError, match=message):
        parse_scoring(section, "demo")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seeds", 1, "seeds"),
        ("claims", {}, "expected claims by name"),
        ("claims", {"a": CLAIM, "b": CLAIM}, "got a, b"),
        ("pilot", {"seeds": [1]}, "pilot"),
    ],
)
def test_an_invalid_section_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_scoring(SECTION | {key: value}, "demo")
