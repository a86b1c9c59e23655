"""Tests of all studies, each on a small run of its sweep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_sweep import run_sweep

from analysis import Results
from analysis.figures import __main__ as command
from analysis.figures import registered
from analysis.figures.study import (
    ClaimResult,
    Study,
    launch_record,
    study_factory,
)
from analysis.scoring.inputs import inputs_digest, publications, questions, scored_sweeps
from analysis.scoring.scored_study import registered_scoring, scored_study
from analysis.scoring.summary import CELLS, MAX_BYTES, Summary, read_summary, write_summary
from analysis.studies import questions as question_pages
from analysis.studies import reproductions, summarize
from analysis.studies.questions import APPENDIX, PAGES
from analysis.studies.reproductions import OVERVIEW, alt_text
from fanin.errors import FaninError

STUDIES = scored_sweeps()
PUBLICATIONS = publications()


@pytest.fixture(scope="module", autouse=True)
def without_registered_sweep() -> Iterator[None]:
    """Give verdicts on the small sweeps of this module, which are not the registered ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registered, "differences", lambda results, record: ())
        yield


@dataclass(frozen=True)
class Drawn:
    """A sweep, its study, and the output of the command that drew it."""

    results: Results
    study: Study
    output: str


@pytest.fixture(scope="session")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Drawn]:
    """Return a function that runs and draws a sweep, once per session."""
    cache: dict[str, Drawn] = {}

    def drawn(sweep: str) -> Drawn:
        if sweep not in cache:
            arguments = (f"sweep={sweep}", "sweep.size=small")
            folder = tmp_path_factory.mktemp("studies")
            cache[sweep] = _draw(run_sweep(folder, sweep, *arguments, small=["runner=inline"]))
        return cache[sweep]

    return drawn


def _draw(results: Results) -> Drawn:
    studies: list[Study] = []

    def recording_factory(loaded: Results) -> Callable[[], Study]:
        compute_study = study_factory(loaded)
        assert compute_study is not None
        studies.append(compute_study())
        return lambda: studies[0]

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as output:
        patch.setattr("analysis.figures.output.study_factory", recording_factory)
        command.main([results.name, "--results", str(results.folder.root.parent)])
    return Drawn(results, studies[0], output.getvalue())


@pytest.mark.parametrize("sweep", STUDIES)
def test_the_command_draws_a_study_and_prints_its_conclusion(
    sweep: str, draw: Callable[[str], Drawn]
) -> None:
    drawn = draw(sweep)
    study, results = drawn.study, drawn.results
    assert study.figures
    assert all(name.startswith(sweep) for name in study.figures)
    assert all(
        line.claimed and line.measured and " nan" not in line.measured
        for line in study.claim_results
    )
    for line in study.claim_results:  # every claim is tested and shows its threshold
        assert line.holds is not None or line.undecided, line.description
        assert line.threshold != "none", line.description
    assert "draws" in study.caption or "seeds" in study.caption
    assert "scoring" in launch_record(results)
    assert f"\n{study.conclusion.capitalize()}: {study.claim}" in drawn.output
    for suffix in ("pdf", "svg", "png", "txt"):
        paths = list((results.folder.root / "figures").glob(f"{sweep}*.{suffix}"))
        assert paths
        assert all(path.stat().st_size > 100 for path in paths)


def without_cells(results: Results, rows: list[int], outcome: str | None) -> Results:
    """Return results in which some cells have no finished run: no row, or another outcome."""
    cells = results.cells
    if outcome is None:
        return replace(results, cells=cells.drop(index=cells.index[rows]).reset_index(drop=True))
    outcomes = cells["outcome"].astype(object)
    outcomes.iloc[rows] = outcome
    return replace(results, cells=cells.assign(outcome=outcomes))


def study_or_error(results: Results) -> Study | str:
    """Compute a study; return the message if too few cells are finished for it."""
    compute_study = study_factory(results)
    assert compute_study is not None
    try:
        return compute_study()
    except FaninError as error:
        return str(error)


@pytest.mark.parametrize("sweep", STUDIES)
def test_a_claim_without_all_of_its_cells_is_undecided(
    sweep: str, draw: Callable[[str], Drawn]
) -> None:
    drawn = draw(sweep)
    study = study_or_error(without_cells(drawn.results, [0], "cancelled"))
    missing = f"1 of {len(drawn.results.cells)} cells are missing: "
    if isinstance(study, str):
        assert missing in study
        return
    assert study.warning.startswith(missing)
    complete = {line.description: line for line in drawn.study.claim_results}
    assert {line.description for line in study.claim_results} == set(complete)
    incomplete = [line for line in study.claim_results if " cells are missing: " in line.measured]
    assert incomplete
    for line in study.claim_results:
        before = complete[line.description]
        if line in incomplete:
            assert line.holds is None
            assert line.undecided == (before.undecided or before.holds is not None)
        else:
            assert line == before


def test_schoenholz2017_has_the_accuracy_after_the_last_step(draw: Callable[[str], Drawn]) -> None:
    drawn = draw("schoenholz2017")
    study = scored_study("schoenholz2017")
    cells = study.summarize(drawn.results)[CELLS]
    last = cells[cells["steps"] == cells["steps"].max()]
    assert cells["steps"].nunique() == 2
    assert sorted(last["accuracy"]) == sorted(drawn.results.cells["test_accuracy"])


def test_incomplete_sweeps_are_not_published(
    draw: Callable[[str], Drawn],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    drawn = draw("schoenholz2017")
    n = len(drawn.results.cells)
    capsys.readouterr()  # of the sweep, if this test is the first that draws it
    incomplete = without_cells(drawn.results, [0, 1], "cancelled")
    for module in (command, summarize):
        monkeypatch.setattr(module, "load", lambda name, results, all=False: incomplete)
    arguments = [drawn.results.name, "--results", str(drawn.results.folder.root.parent)]
    command.main(arguments)
    assert re.search(rf"^Warning: 2 of {n} cells are missing: .*; run `", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        summarize.main([*arguments, "--output", str(tmp_path / "summaries")])
    assert f"a summary needs a complete sweep. 2 of {n} cells" in capsys.readouterr().err
    assert not (tmp_path / "summaries").exists()


def summary_of(results: Results, sweep: str) -> Summary:
    about = {
        **{"command": "fanin run", "commit": "12ab", "clean": True, "date": "2026-11-30"},
        **{"n_cells": len(results.cells), "seeds": [0, 1], "versions": {"torch": "2"}},
        **{
            "seconds": 60.0,
            "inputs": inputs_digest(sweep),
            "scoring": launch_record(results)["scoring"],
        },
    }
    return Summary(sweep, scored_study(sweep).summarize(results), about)


@pytest.mark.parametrize("sweep", STUDIES)
def test_a_summary_keeps_what_caption_and_verdicts_need(
    sweep: str, draw: Callable[[str], Drawn], tmp_path: Path
) -> None:
    written = summary_of(draw(sweep).results, sweep)
    path = write_summary(written, tmp_path)
    assert path.stat().st_size < MAX_BYTES
    read, study = read_summary(sweep, tmp_path), scored_study(sweep)
    assert read.tables.keys() == written.tables.keys()
    assert study.caption(read.tables) == study.caption(written.tables)
    scoring = registered_scoring(sweep)
    verdicts = [
        [(claim.name, claim.verdict, str(claim.interval)) for claim in study.score(scoring, tables)]
        for tables in (read.tables, written.tables)
    ]
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize("sweep", PUBLICATIONS)
def test_page_and_figures_are_made_from_the_summary_alone(
    sweep: str, draw: Callable[[str], Drawn], tmp_path: Path
) -> None:
    written, study = summary_of(draw(sweep).results, sweep), scored_study(sweep)
    write_summary(written, tmp_path / "summaries")
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    blocks = [f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in (sweep, OVERVIEW)]
    page.write_text("\n".join(blocks))
    folder = ["--summaries", str(tmp_path / "summaries"), "--shuffles", "2"]
    reproductions.main([sweep, *folder, "--write", str(page)])
    text = page.read_text()
    scored = study.score(registered_scoring(sweep), written.tables)
    main = next(claim for claim in scored if claim.claim.main)
    assert f"**{main.verdict.capitalize()}.**" in text
    assert study.caption(written.tables) in text
    assert "`fanin run` at commit 12ab (clean tree), 2026-11-30" in text
    linked = re.findall(r"\]\((figures/\S+\.png)\)", text)
    assert f"![{alt_text(study.caption(written.tables))}](" in text
    assert linked == [f"figures/{sweep}.png"]
    assert (page.parent / linked[0]).stat().st_size > 1000


@pytest.mark.parametrize("sweep", questions())
def test_a_question_has_a_page_with_one_figure_and_an_appendix_with_the_others(
    sweep: str, draw: Callable[[str], Drawn], tmp_path: Path
) -> None:
    written, study = summary_of(draw(sweep).results, sweep), scored_study(sweep)
    write_summary(written, tmp_path / "summaries")
    docs = tmp_path / "docs"
    page, appendix = (docs / folder / f"{sweep}.md" for folder in (PAGES, APPENDIX))
    for path in (page, appendix):
        path.parent.mkdir(parents=True)
        path.write_text(f"By hand.\n<!-- begin {sweep} -->\n<!-- end {sweep} -->\n")
    folder = ["--summaries", str(tmp_path / "summaries"), "--shuffles", "2"]
    question_pages.main([sweep, *folder, "--write", str(docs)])
    links = [re.findall(r"!\[[^]]*\]\((\S+\.png)\)", path.read_text()) for path in (page, appendix)]
    names = list(study.figures(written.tables))
    assert [Path(link).stem for link in links[0]] == names[:1] == [sweep]
    assert [Path(link).stem for link in links[1]] == names[1:]
    for path, linked in zip((page, appendix), links, strict=True):
        assert path.read_text().startswith("By hand.\n")
        assert all((path.parent / link).stat().st_size > 1000 for link in linked)
    scored = study.score(registered_scoring(sweep), written.tables)
    n_held = sum(claim.verdict == "reproduced" for claim in scored)
    assert f"{n_held} of {len(scored)} tested claims hold" in page.read_text()
    for claim in scored:
        assert claim.claim.statement in appendix.read_text()
    captions = study.caption(written.tables).split("\n\n")
    assert f"*{captions[0]}*" in page.read_text()
    assert f"![{alt_text(captions[0])}](" in page.read_text()
    assert all(f"*{text}*" in appendix.read_text() for text in captions[1:])


def test_a_summary_names_the_run_and_refuses_too_few_seeds_and_those_of_the_pilot(
    draw: Callable[[str], Drawn], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = draw("poole2016").results
    record = launch_record(results)
    with pytest.raises(FaninError, match="2 seeds, but a verdict needs 5"):
        summarize.summarize(results)

    def record_with(**changed: object) -> None:
        scoring = {**record["scoring"], "seeds": 2, **changed}
        monkeypatch.setattr(summarize, "launch_record", lambda _: {**record, "scoring": scoring})

    record_with(pilot={"seeds": [1], "date": "2026-11-30", "result": "none"})
    with pytest.raises(FaninError, match=r"seeds \[1\] are those of the pilot"):
        summarize.summarize(results)
    record_with()
    about = summarize.summarize(results).about
    assert about["command"] == "fanin run -m sweep=poole2016 sweep.size=small"
    assert about["commit"] == results.cells["code"].iloc[0]
    assert about["clean"] == ("+" not in about["commit"])
    assert (about["n_cells"], about["seeds"]) == (len(results.cells), [0, 1])
    assert about["versions"]["torch"] == results.cells["torch"].iloc[0]


def test_a_summary_over_1_mb_is_refused(tmp_path: Path) -> None:
    noise = pd.DataFrame({"seed": 0, "value": np.random.default_rng(0).random(200_000)})
    with pytest.raises(FaninError, match="more than 1,000,000"):
        write_summary(Summary("large", {"cells": noise}, {}), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verdict", ["reproduced", "contradicted", "undecided"])
def test_the_main_claim_decides_a_study(verdict: str) -> None:
    holds = {"reproduced": True, "contradicted": False}.get(verdict)
    main = ClaimResult("x", "1", "1", holds, holds is None, is_main=True)
    other = ClaimResult("y", "1", "1", not holds)
    assert Study("claim", {}, "caption", (other, main)).conclusion == verdict


def test_a_sweep_without_a_source_has_no_study(
    small: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study_factory(small) is None
    with pytest.raises(SystemExit):
        summarize.main(["small", "--results", str(small.folder.root.parent)])
    assert "no section 'scoring'" in capsys.readouterr().err


def test_a_source_without_a_module_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    text = "source: Nobody 2030\nfixed: {probe.draws: 1}\n"
    (tmp_path / "conf" / "sweep" / "nobody2030.yaml").write_text(text)
    results = run_sweep(tmp_path, "unknown", "sweep=nobody2030", config_dir=tmp_path / "conf")
    with pytest.raises(FaninError, match=r"no module analysis\.figures\.nobody2030"):
        study_factory(results)


def test_a_source_without_scoring_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    text = "source: Nobody 2030\nfixed: {probe.draws: 1}\n"
    (tmp_path / "conf" / "sweep" / "style.yaml").write_text(text)  # a module without STUDY
    results = run_sweep(tmp_path, "unscored", "sweep=style", config_dir=tmp_path / "conf")
    with pytest.raises(FaninError, match="needs the section 'scoring'"):
        study_factory(results)
