"""A published figure made again: its numbers beside ours, for sweeps that name their source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.figures.study import Headline, study_of
from analysis.figures.style import use_style
from analysis.load import Results
from analysis.report.figures import Drawn, drawn
from fanin.errors import FaninError


@dataclass(frozen=True)
class Studied:
    """What came of a publication's claim, or why that can't be said (`unmade`)."""

    claim: str = ""
    verdict: str = ""
    headlines: Sequence[Headline] = ()
    figures: Sequence[Drawn] = ()
    unmade: str | None = None


def studied(results: Results, command: str) -> Studied | None:
    """A sweep's study; None for a sweep that reproduces nothing."""
    use_style()
    try:
        make = study_of(results)
        study = None if make is None else make()
    except FaninError as error:
        return Studied(unmade=str(error))
    if study is None:
        return None
    seen = " ".join(f"{h.what}: claimed {h.theirs}, measured {h.ours}." for h in study.headlines)
    return Studied(
        claim=study.claim,
        verdict=study.verdict,
        headlines=study.headlines,
        figures=[
            drawn(name, figure, study.claim, seen, study.caption, command)
            for name, figure in study.figures.items()
        ],
    )
