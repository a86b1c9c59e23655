"""Write all studies into docs/reproductions.md: an overview and a table for each.

python -m analysis.studies.reproductions glorot2010 --write docs/reproductions.md
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from analysis.cli import ALL_HELP
from analysis.figures.study import FIELD_REPORT, Study, launch_record
from analysis.load import Results, load
from analysis.studies.tables import (
    claims_table,
    count_holding,
    markdown_table,
    provenance_line,
    publish,
    read_block,
    require_complete,
    require_study,
)
from experiments.console import exit_on_error

NAME = "reproductions"
HEADER = ["sweep", "source", "conclusion", "claims that hold"]


def markdown(studies: Sequence[tuple[Results, Study]], existing: str = "") -> str:
    """Format an overview table, then one section per publication.

    Field reports have their own pages in docs/questions/ and appear only in the overview.

    Parameters
    ----------
    existing
        Current text of the page. Its rows and sections of sweeps that are not in `studies` are
        kept.
    """
    rows, sections = _parse(existing)
    for results, study in studies:
        rows[results.name] = [
            _link(results), _linked_source(results), study.conclusion, count_holding(study)
        ]  # fmt: skip
        if _source(results) != FIELD_REPORT:
            sections[results.name] = _section(results, study)
    names = sorted(rows, key=lambda name: (name not in sections, _year(name), name))
    overview = markdown_table(HEADER, [rows[name] for name in names])
    return "\n\n".join([overview, *(sections[name] for name in names if name in sections)])


def _parse(text: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    r"""Return the rows of an overview and the sections below it, by sweep.

    >>> _parse("| sweep | s |\n| --- | --- |\n| [a](#a) | b |\n\n### a\n\nText.")
    ({'a': ['[a](#a)', 'b']}, {'a': '### a\n\nText.'})
    """
    overview, *sections = re.split(r"^(?=### )", text, flags=re.M)
    rows = {}
    for line in overview.splitlines():
        if match := re.match(r"\| \[(\w+)\]\(", line):
            rows[match[1]] = [part.strip() for part in line.strip("| ").split(" | ")]
    return rows, {section.split()[1]: section.strip() for section in sections}


def _section(results: Results, study: Study) -> str:
    parts = [
        f"### {results.name}",
        f"{_linked_source(results)}. Claim: {study.claim} **{study.statement}.**",
        claims_table(study),
        f"{study.caption} {provenance_line(results)}",
    ]
    return "\n\n".join(parts)


def _year(name: str) -> int:
    year = re.search(r"\d{4}$", name)
    return int(year[0]) if year else 0


def _link(results: Results) -> str:
    is_report = _source(results) == FIELD_REPORT
    target = f"questions/{results.name}.md" if is_report else f"#{results.name}"
    return f"[{results.name}]({target})"


def _source(results: Results) -> str:
    return str(launch_record(results)["source"])


def _linked_source(results: Results) -> str:
    """Return a sweep's source as Markdown, with links for arXiv numbers and DOIs."""
    return link_papers(_source(results))


def link_papers(text: str) -> str:
    """Link arXiv numbers and DOIs in Markdown.

    >>> link_papers("He et al. 2015, arXiv:1502.01852")
    'He et al. 2015, [arXiv:1502.01852](https://arxiv.org/abs/1502.01852)'
    >>> link_papers("doi:10.1000/182")
    '[doi:10.1000/182](https://doi.org/10.1000/182)'
    """
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi:(10\.\S+[^\s.,;])", r"[doi:\1](https://doi.org/\1)", text)


def main(argv: Sequence[str] | None = None) -> None:
    """Write or print the studies of the named sweeps."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.reproductions", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help="sweeps under results/")
    parser.add_argument("--results", default="results", help="folder of the sweeps")
    parser.add_argument("--all", action="store_true", help=ALL_HELP)
    parser.add_argument(
        "--write",
        metavar="PAGE",
        type=Path,
        help="write the studies into this page, between its marker lines; sweeps that are not "
        "named keep their text (default: print the studies)",
    )
    args = parser.parse_args(argv)
    with exit_on_error():
        existing = read_block(args.write, NAME) if args.write else ""
        loaded = [load(name, args.results, all=args.all) for name in args.names]
        for results in loaded if args.write else ():
            require_complete(results)
        studies = [(results, require_study(results)) for results in loaded]
        publish(markdown(studies, existing), args.write, NAME)


if __name__ == "__main__":
    main()
