"""The section `scoring` of a sweep's YAML: claims, and the effects that decide them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from experiments.config.instantiate import check_value
from fanin.errors import ConfigError

Direction = Literal["above", "below", "within"]
Method = Literal["t", "median"]
SOURCE = re.compile(r"(paper, .+|authors' code, .+|our choice(: .+)?|theory, .+)", re.DOTALL)


def _check_source(text: str) -> str:
    if not SOURCE.fullmatch(text):
        raise ValueError(
            "a source begins with 'paper, SECTION', \"authors' code, FILE\", 'theory, PAGE' or "
            "'our choice'"
        )
    return text


Source = Annotated[str, AfterValidator(_check_source)]


@dataclass(frozen=True)
class Claim:
    """A claim of a publication, and the effect that decides it.

    Parameters
    ----------
    statement
        The claim in one sentence.
    source
        Where the publication makes it: `paper, SECTION` or `authors' code, FILE`.
    effect
        Name of the statistic, a key of `EFFECTS` in the study's module. It has one value per seed.
    direction
        `above` and `below`: the effect must exceed, or stay below, `smallest`. `within`: it must
        lie between `-smallest` and `smallest`.
    smallest
        The smallest effect that counts.
    smallest_source
        Where `smallest` comes from.
    null_models
        Wrong results that the claim must refuse: `constant`, `shuffled`, `trend in COLUMN`, or a
        null model of the study's module.
    interval
        95 % interval over seeds: `t`, Student's interval of the mean, or `median`, the interval of
        the median from order statistics. Use `median` for an effect that takes few values, such as
        the share of a few networks; it needs at least six seeds.
    main
        The study is reproduced if this claim is.
    """

    statement: str
    source: Source
    effect: str
    direction: Direction
    smallest: float
    smallest_source: Source
    null_models: tuple[str, ...]
    interval: Method = "t"
    main: bool = False

    @property
    def criterion(self) -> str:
        """Condition on the effect, with the source of its number.

        >>> Claim("x", "our choice", "e", "above", 0.5, "our choice", ()).criterion
        'above 0.5 (our choice)'
        """
        limit = f"{self.smallest:g}"
        bound = f"±{limit}" if self.direction == "within" else limit
        return f"{self.direction} {bound} ({self.smallest_source})"


@dataclass(frozen=True)
class Pilot:
    """A run of a few cells before the study; the study does not use its seeds again.

    Parameters
    ----------
    seeds
        Seeds of the pilot.
    date
        Day of the pilot.
    result
        What it measured, in one sentence.
    """

    seeds: tuple[int, ...]
    date: date
    result: str


@dataclass(frozen=True)
class Scoring:
    """Claims of a study.

    Parameters
    ----------
    seeds
        Number of seeds that a verdict needs.
    seeds_reason
        Why this number: the power that it gives.
    claims
        Claims by name; exactly one is the main claim.
    sizes
        Sizes of the publication and of this study, in words: `theirs` and `ours`.
    pilot
        The pilot, or None if there was none.
    """

    seeds: Annotated[int, Field(ge=2)]
    seeds_reason: str
    claims: Mapping[str, Claim]
    sizes: Mapping[Literal["theirs", "ours"], str]
    pilot: Pilot | None = None

    @property
    def main(self) -> str:
        """Name of the main claim."""
        return next(name for name, claim in self.claims.items() if claim.main)


def parse_scoring(section: Mapping[str, Any], sweep: str) -> Scoring:
    """Check the section `scoring` of a sweep's YAML.

    Parameters
    ----------
    section
        The section.
    sweep
        Name of the sweep, for messages.

    Raises
    ------
    ConfigError
        A key or value is not valid, a claim has no null model, or there is not exactly one main
        claim.
    """
    path = f"{sweep}.scoring"
    claims = section.get("claims")
    if not isinstance(claims, Mapping) or not claims:
        raise ConfigError(f"{path}.claims: expected claims by name, got {claims!r}")
    checked = {
        str(name): check_value(claim, Claim, f"{path}.claims.{name}")
        for name, claim in claims.items()
    }
    pilot = section.get("pilot")
    if pilot is not None:
        pilot = check_value(pilot, Pilot, f"{path}.pilot")
    scoring: Scoring = check_value({**section, "claims": {}, "pilot": None}, Scoring, path)
    scoring = Scoring(scoring.seeds, scoring.seeds_reason, checked, scoring.sizes, pilot)
    main = [name for name, claim in checked.items() if claim.main]
    if len(main) != 1:
        named = ", ".join(main) or "none"
        raise ConfigError(f"{path}.claims: exactly one claim must have `main: true`, got {named}")
    for name, claim in checked.items():
        if not claim.null_models:
            raise ConfigError(
                f"{path}.claims.{name}.null_models: must name at least one of constant, shuffled, "
                "trend in COLUMN, or a null model of the study"
            )
        if claim.smallest <= 0 and claim.direction == "within":
            raise ConfigError(f"{path}.claims.{name}.smallest: must be positive for `within`")
    return scoring
