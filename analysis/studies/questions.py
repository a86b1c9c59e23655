"""Write the pages of the questions and their appendix pages from the committed summaries.

python -m analysis.studies.questions --write docs
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis.figures.style import use_style
from analysis.scoring.inputs import questions
from analysis.scoring.scored_study import scored_study
from analysis.scoring.summary import FOLDER
from analysis.studies.blocks import publish
from analysis.studies.reproductions import (
    FIGURES,
    Section,
    add_shuffles,
    alt_text,
    block_inputs,
    claims_table,
    closing_paragraphs,
    make_section,
    save_figures,
)
from experiments.console import exit_on_error

PAGES, APPENDIX = Path("questions"), Path("appendix/questions")  # folders in docs/


def page(section: Section) -> str:
    """Format the block of a question's page: one figure and the number of claims that hold."""
    details = f"[claims, figures and settings](../{APPENDIX}/{section.name}.md)"
    if section.summary is None:
        return f"The study of this question has not run yet. Planned: {details}."
    n_held = sum(claim.verdict == "reproduced" for claim in section.claims)
    (name, text), *_ = captioned_figures(section)
    image = f"![{alt_text(text)}](../{FIGURES}/{name}.png)"
    counts = f"{n_held} of {len(section.claims)} tested claims hold; see all {details}."
    return "\n\n".join([image, f"*{text}*", counts])


def appendix(section: Section) -> str:
    """Format the block of a question's appendix page: claims, further figures and provenance."""
    return "\n\n".join(_paragraphs(section))


def _paragraphs(section: Section) -> Iterator[str]:
    verdict = f"**{section.verdict.capitalize()}.**"
    yield f"Main claim: {section.main_statement} {verdict}"
    yield claims_table(section)
    sizes = section.scoring.sizes
    yield f"Sizes in the question: {sizes['theirs']}. Ours: {sizes['ours']}."
    for name, text in captioned_figures(section)[1:]:
        yield f"![{alt_text(text)}](../../{FIGURES}/{name}.png)"
        yield f"*{text}*"
    yield from closing_paragraphs(section)


def captioned_figures(section: Section) -> list[tuple[str, str]]:
    """Return the file name and the caption of each figure; the first is that of the page.

    A question's caption has one paragraph per figure.
    """
    if section.summary is None:
        return []
    study, tables = scored_study(section.name), section.summary.tables
    captions = study.caption(tables).split("\n\n")
    return list(zip(study.figures(tables), captions, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Write or print the pages of all questions."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.questions", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="studies (default: all)")
    parser.add_argument("--summaries", metavar="DIR", type=Path, default=FOLDER)
    parser.add_argument(
        "--write",
        metavar="DOCS",
        type=Path,
        help=f"folder of the documentation: write the pages DOCS/{PAGES}/NAME.md and "
        f"DOCS/{APPENDIX}/NAME.md, between their marker lines, and the figures "
        "(default: print the studies)",
    )
    add_shuffles(parser)
    args = parser.parse_args(argv)
    use_style()
    with exit_on_error(OSError):
        for name in args.names or questions():
            section = make_section(name, args.summaries, args.shuffles)
            inputs = block_inputs(name, args.summaries)
            for folder, text in ((PAGES, page(section)), (APPENDIX, appendix(section))):
                target = args.write and args.write / folder / f"{name}.md"
                publish(text, target, name, inputs)
            if args.write and section.summary is not None:
                save_figures(section.summary, args.write / FIGURES)


if __name__ == "__main__":
    main()
