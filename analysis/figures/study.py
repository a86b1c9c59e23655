"""A published figure made again: what it looks like, its numbers beside ours, and a verdict.

A sweep whose YAML names a `source` has a module of its own name here, with

    study(results: Results, criterion: Mapping[str, Any]) -> Study
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from matplotlib.figure import Figure

from analysis.load import Results
from fanin.errors import FaninError

FIELD_REPORT = "field report"  # the source of a question that people ask
Word = Literal["reproduced", "partly reproduced", "not reproduced"]


@dataclass(frozen=True)
class Headline:
    """One of the publication's numbers, and ours.

    Attributes
    ----------
    what
        What it is, with symbol and setting.
    theirs
        As published, or by the publication's own formula; says which.
    ours
        As measured, with its error.
    holds
        Whether the criterion calls that the same; None where it asks nothing of it, or can't tell.
    undecided
        Whether something was claimed that the data can't tell: no claim is reproduced by that.
    """

    what: str
    theirs: str
    ours: str
    holds: bool | None
    undecided: bool = False


@dataclass(frozen=True)
class Study:
    """Result of a sweep's study: figures, caption and headlines.

    Attributes
    ----------
    claim
        What the publication says, in a sentence.
    figures
        By file name.
    caption
        Setting and n, for under the figure.
    headlines
        Numbers beside each other.
    """

    claim: str
    figures: Mapping[str, Figure]
    caption: str
    headlines: tuple[Headline, ...]

    @property
    def verdict(self) -> Word:
        """By the headlines that the criterion asks something of."""
        asked = [line.holds for line in self.headlines if line.holds is not None]
        if all(asked) and not any(line.undecided for line in self.headlines):
            return "reproduced"
        return "partly reproduced" if any(asked) else "not reproduced"


def study_of(results: Results) -> Callable[[], Study] | None:
    """Return the function that makes a sweep's study; None for a sweep that has none.

    Raises
    ------
    FaninError
        The sweep names a source, and there is no module of its name.
    """
    about = launched(results)
    if not about.get("source"):
        return None
    module = f"analysis.figures.{about['sweep']}"
    if importlib.util.find_spec(module) is None:
        raise FaninError(f"{about['sweep']}: no module {module} draws this sweep's figure")
    make = importlib.import_module(module).study
    return lambda: make(results, about.get("criterion") or {})


def launched(results: Results) -> dict[str, Any]:
    """Read what a sweep's first launch recorded: source and criterion as they stood then."""
    try:
        documents = list(yaml.safe_load_all(results.folder.provenance.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise FaninError(f"{results.folder.provenance}: {error}") from None
    return dict(documents[0] or {}) if documents else {}
