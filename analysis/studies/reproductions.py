"""Write docs/reproductions.md and its figures from the committed summaries.

python -m analysis.studies.reproductions --write docs/reproductions.md
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.figures.study import format_interval
from analysis.figures.style import use_style
from analysis.scoring.claims import Scoring
from analysis.scoring.inputs import (
    History,
    criteria,
    criteria_changes,
    inputs_digest,
    publications,
    scoring_digest,
    scoring_history,
    sweep_definition,
)
from analysis.scoring.null_models import N_SHUFFLES, SHUFFLED, NullResult
from analysis.scoring.scored_study import registered_scoring, scored_study
from analysis.scoring.summary import FOLDER, Summary, read_summary, summaries, summary_path
from analysis.scoring.verdict import ScoredClaim
from analysis.studies.blocks import publish
from analysis.studies.tables import markdown_table
from experiments.console import exit_on_error
from fanin.commands import command_line
from fanin.errors import ConfigError, suggest

OVERVIEW = "reproductions"
DPI = 150
NOT_RUN = "not run yet"
FIGURES = "figures"  # folder of the PNG files, beside the page


@dataclass(frozen=True)
class Section:
    """A study with its criteria, and its score if it has a summary."""

    name: str
    source: str
    scoring: Scoring
    history: History
    diagnosis: dict[str, str]
    summary: Summary | None = None
    claims: tuple[ScoredClaim, ...] = ()
    null_results: tuple[NullResult, ...] = ()

    @property
    def main_statement(self) -> str:
        """The main claim."""
        return self.scoring.claims[self.scoring.main].statement

    @property
    def verdict(self) -> str:
        """Verdict of the main claim, or `not run yet`."""
        verdicts = {claim.name: claim.verdict for claim in self.claims}
        return verdicts.get(self.scoring.main, NOT_RUN)


def make_section(name: str, folder: Path = FOLDER, n_shuffles: int = N_SHUFFLES) -> Section:
    """Score a study from its summary, if it has one; without shuffles, no null model is scored."""
    definition = sweep_definition(name)
    scoring, study = registered_scoring(name), scored_study(name)
    diagnosis = dict(definition.get("diagnosis") or {})
    for claim in diagnosis:
        if claim not in scoring.claims:
            raise ConfigError(
                f"{name}.yaml: diagnosis of no claim: {claim}; {suggest(claim, scoring.claims)}"
            )
    source = str(definition["source"])
    section = Section(name, source, scoring, scoring_history(name), diagnosis)
    if name not in summaries(folder):
        return section
    summary = read_summary(name, folder)
    claims = tuple(study.score(scoring, summary.tables))
    section = replace(section, summary=summary, claims=claims)
    if not n_shuffles:
        return section
    results = study.score_null_models(scoring, summary.tables, n_shuffles)
    return replace(section, null_results=tuple(results))


def overview(sections: Sequence[Section]) -> str:
    """Format the table of all studies."""
    rows = [
        [f"[{s.name}](#{s.name})", link_papers(s.source), s.main_statement, s.verdict]
        for s in sections
    ]
    return markdown_table(["sweep", "source", "main claim", "verdict"], rows)


def markdown(section: Section) -> str:
    """Format one study: claim, figure, table of claims, sizes, diagnoses and provenance."""
    return "\n\n".join(_paragraphs(section))


def _paragraphs(section: Section) -> Iterator[str]:
    name, scoring, summary = section.name, section.scoring, section.summary
    verdict = section.verdict.capitalize()
    yield f"{link_papers(section.source)}. {section.main_statement} **{verdict}.**"
    if summary is not None:
        study = scored_study(name)
        caption = study.caption(summary.tables)
        yield f"![{alt_text(caption)}]({FIGURES}/{name}.png)"
        yield f"*{caption}*"
    yield claims_table(section)
    yield f"Sizes: theirs: {scoring.sizes['theirs']}. Ours: {scoring.sizes['ours']}."
    yield from closing_paragraphs(section)


def alt_text(caption: str) -> str:
    """Return the beginning of a caption, up to its first period, colon or parenthesis.

    >>> alt_text("Tanh networks, sigma_b = 0.3 (see the table). Left: second moment.")
    'Tanh networks, sigma_b = 0.3'
    """
    return re.split(r"[.:](?:\s|$)|\(", caption)[0].strip()


def closing_paragraphs(section: Section) -> Iterator[str]:
    """Yield the diagnosis of each contradicted claim, the criteria, and the run."""
    diagnosed: dict[str, list[str]] = {}  # statements by diagnosis
    for claim in section.claims:
        if claim.verdict == "contradicted":
            text = section.diagnosis.get(claim.name, "not known yet")
            diagnosed.setdefault(text, []).append(f"“{claim.claim.statement}”")
    for text, statements in diagnosed.items():
        yield f"Diagnosis of {' and '.join(statements)}: {text}"
    if section.summary is None:
        yield criteria_text(section)
        yield f"Run it with `{command_line('run', '-m', f'sweep={section.name}')}`."
        return
    yield "<details markdown><summary>Criteria, pilot and run</summary>"
    yield criteria_text(section)
    yield provenance(section.summary)
    yield "</details>"


def claims_table(section: Section) -> str:
    """Format the claims with their criteria, effects and verdicts."""
    scored = {claim.name: claim for claim in section.claims}
    rows = []
    for name, claim in section.scoring.claims.items():
        measured, verdict = "", NOT_RUN
        if name in scored:
            measured, verdict = format_interval(scored[name].interval), scored[name].verdict
        mark = "main claim: " if claim.main else ""
        effect = f"{claim.effect.replace('_', ' ')}, {claim.criterion}"
        nulls = _null_text([r for r in section.null_results if r.claim == name])
        rows.append([f"{mark}{claim.statement} ({claim.source})", effect, measured, verdict, nulls])
    header = ["claim", "effect and the smallest that counts", "measured (95 %)", "verdict"]
    return markdown_table([*header, "null models refused"], rows)


def _null_text(results: Sequence[NullResult]) -> str:
    """Count the refused null models, name the others, and count the shuffles that passed."""
    if not results:
        return ""
    others = [r.null_model for r in results if not r.is_refused]
    parts = [f"{len(results) - len(others)} of {len(results)}"]
    parts += [f"not: {', '.join(others)}"] if others else []
    parts += [f"{r.n_accepted} of {r.n} shuffles pass" for r in results if r.null_model == SHUFFLED]
    return "; ".join(parts)


def criteria_text(section: Section) -> str:
    """Return the commit of the criteria, the pilot, and every later change."""
    scoring, history = section.scoring, section.history
    parts = [f"Criteria: commit {history.commit} {history.date}".rstrip() + "."]
    if scoring.pilot is not None:
        seeds = ", ".join(map(str, scoring.pilot.seeds))
        parts.append(f"Pilot (seeds {seeds}, {scoring.pilot.date}): {scoring.pilot.result}")
    parts.append(f"Seeds: {scoring.seeds}, {scoring.seeds_reason}.")
    changes = "; ".join(history.later_changes) or "none"
    parts.append(f"Later changes of the YAML or the module: {changes}.")
    if section.summary is not None:
        before, after = criteria(section.summary.about), criteria(sweep_definition(section.name))
        if changed := criteria_changes(before, after):
            parts.append(f"**The criteria changed after the run:** {'; '.join(changed)}.")
    return " ".join(parts)


def provenance(summary: Summary) -> str:
    """Return the command, commit, date, cells and versions of a run, and later changes."""
    about = summary.about
    tree = "clean tree" if about["clean"] else "uncommitted changes"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    changed = ""
    if about["inputs"] != inputs_digest(summary.name):
        changed = (
            " The study's YAML or module changed after this run, as listed above; claims and "
            "figures are those of the present version, computed from the results of this run."
        )
    return (
        f"`{about['command']}` at commit {about['commit']} ({tree}), {about['date']}: "
        f"{about['n_cells']:,} cells, seeds {', '.join(map(str, about['seeds']))}, "
        f"{about['seconds'] / 60:.0f} min of training; {versions}.{changed}"
    )


def link_papers(text: str) -> str:
    """Link arXiv numbers and DOIs in Markdown.

    >>> link_papers("He et al. 2015, arXiv:1502.01852")
    'He et al. 2015, [arXiv:1502.01852](https://arxiv.org/abs/1502.01852)'
    >>> link_papers("doi:10.1000/182")
    '[doi:10.1000/182](https://doi.org/10.1000/182)'
    """
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi:(10\.\S+[^\s.,;])", r"[doi:\1](https://doi.org/\1)", text)


def block_inputs(name: str, folder: Path = FOLDER) -> str:
    """Return digests of a study's YAML and module, of the shared code, and of its summary."""
    path, inputs = summary_path(name, folder), f"{inputs_digest(name)}-{scoring_digest()}"
    if not path.is_file():
        return inputs
    return f"{inputs}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def overview_inputs(folder: Path = FOLDER) -> str:
    """Return a digest of what the table of all studies depends on."""
    inputs = " ".join(block_inputs(name, folder) for name in publications())
    return hashlib.sha256(inputs.encode()).hexdigest()[:12]


def main(argv: Sequence[str] | None = None) -> None:
    """Write or print the page of all publications."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.studies.reproductions", description=__doc__.splitlines()[0]
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="studies (default: all)")
    parser.add_argument("--summaries", metavar="DIR", type=Path, default=FOLDER)
    parser.add_argument(
        "--write",
        metavar="PAGE",
        type=Path,
        help="write the studies into this page, between their marker lines, and the figures beside "
        "it (default: print the studies)",
    )
    add_shuffles(parser)
    args = parser.parse_args(argv)
    use_style()
    with exit_on_error(OSError):
        for name in args.names or publications():
            section = make_section(name, args.summaries, args.shuffles)
            inputs = block_inputs(name, args.summaries)
            publish(markdown(section), args.write, name, inputs)
            if args.write and section.summary is not None:
                save_figures(section.summary, args.write.parent / FIGURES)
        sections = [make_section(name, args.summaries, n_shuffles=0) for name in publications()]
        publish(overview(sections), args.write, OVERVIEW, overview_inputs(args.summaries))


def add_shuffles(parser: argparse.ArgumentParser) -> None:
    """Add the option `--shuffles`."""
    parser.add_argument(
        "--shuffles",
        metavar="N",
        type=int,
        default=N_SHUFFLES,
        help="number of shuffles that each claim must refuse (default: %(default)s, which takes "
        "minutes)",
    )


def save_figures(summary: Summary, folder: Path) -> None:
    """Draw a study's figures from its summary into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in scored_study(summary.name).figures(summary.tables).items():
        metadata = {"Software": None}  # so that the file does not depend on matplotlib's version
        figure.savefig(folder / f"{name}.png", dpi=DPI, bbox_inches="tight", metadata=metadata)


if __name__ == "__main__":
    main()
