"""Tests of all studies, each on a small run of its sweep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from small_sweep import run_sweep

from analysis import Results
from analysis.figures import __main__ as command
from analysis.figures import registered
from analysis.figures.study import (
    FIELD_REPORT,
    NO_THRESHOLD,
    ClaimResult,
    Study,
    launch_record,
    study_factory,
)
from analysis.studies import questions, reproductions
from fanin.errors import FaninError

# Overrides that make each sweep small.
SMALLER = {
    "alexnet_variance": (
        *("data=digits", "model.width=8", "train.epochs=0.1"),
        *("optim.lr=0.03", "probe.draws=2", "probe.size=2", "seed=0"),
    ),
    "dying_relu": ("data.side=8", "scaling=unit", "optim.lr=1e-4,1", "seed=0"),
    "glorot2010": ("model.width=200", "probe.draws=1", "seed=range(3)"),
    "he2015": ("model.width=4", "train.steps=30", "seed=0"),
    "inf_loss": ("activation=relu", "scaling=standardize", "optim.lr=0.1", "seed=0"),
    "hanin2018": ("probe.draws=6", "seed=range(2)"),
    "mishkin2016": ("model.width=1", "train.steps=3", "seed=0,1", "probe.draws=0"),
    "xiao2018": ("model.width=2", "model.depth=5", "train.steps=12"),
    "schoenholz2017": ("model.width=16", "train.steps=3", "model.depth=4,8", "seed=0"),
    "large_outputs": (
        *("model.width=4", "train.steps=8", "probe.steps=[1,8]", "probe.size=2", "probe.draws=2"),
        "seed=0",
    ),
    "lewkowycz2020": ("model.width=16", "optim.lr=0.01,0.1,100", "init.gain=1.0", "seed=0,1"),
    "poole2016": ("model.width=64", "probe.draws=2", "seed=0"),
}


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
            arguments = (f"sweep={sweep}", *SMALLER[sweep])
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


@pytest.fixture(params=["glorot2010", "dying_relu"])
def studied_sweep(
    request: pytest.FixtureRequest, draw: Callable[[str], Drawn], monkeypatch: pytest.MonkeyPatch
) -> Results:
    """Return the results of a publication and of a field report, with their study cached."""
    drawn = draw(request.param)
    for page in (reproductions, questions):
        monkeypatch.setattr(page, "require_study", lambda results: drawn.study)
    return drawn.results


def test_every_sweep_with_a_source_is_tested() -> None:
    conf = Path(__file__).parents[3] / "conf" / "sweep"
    published = {path.stem for path in conf.glob("*.yaml") if "\nsource:" in path.read_text()}
    assert published == set(SMALLER)


@pytest.mark.parametrize("sweep", sorted(SMALLER))
def test_the_command_draws_a_study_and_prints_its_conclusion(
    sweep: str, draw: Callable[[str], Drawn]
) -> None:
    drawn = draw(sweep)
    study, results = drawn.study, drawn.results
    assert study.figures
    assert all(name.startswith(sweep) for name in study.figures)
    assert all(
        line.claimed and line.measured and "nan" not in line.measured
        for line in study.claim_results
    )
    assert any(line.holds is not None for line in study.claim_results)
    for line in study.claim_results:  # every tested claim shows its threshold
        is_tested = line.holds is not None or line.undecided
        assert not is_tested or line.threshold != NO_THRESHOLD, line.description
    assert "draws" in study.caption or "seeds" in study.caption
    assert launch_record(results)["criterion"]
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


# The claims of the field reports depend on all cells, as those of hanin2018; they compute slowly.
@pytest.mark.parametrize("sweep", [sweep for sweep in sorted(SMALLER) if sweep[-1].isdigit()])
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


@pytest.mark.parametrize("outcome", [None, "cancelled", "error"])
def test_cells_without_a_finished_run_stay_white(
    outcome: str | None, draw: Callable[[str], Drawn]
) -> None:
    results = draw("schoenholz2017").results
    gain = results.cells["init.gain"].iloc[0]
    is_absent = (results.cells["model.depth"] == 8) & (results.cells["init.gain"] == gain)
    rows = [n for n, absent in enumerate(is_absent) if absent]
    compute_study = study_factory(without_cells(results, rows, outcome))
    assert compute_study is not None
    study = compute_study()
    mesh = study.figures["schoenholz2017"].axes[0].collections[0]
    values = np.ma.masked_invalid(mesh.get_array()).reshape(2, -1)
    assert values.mask.sum() == 1
    assert values.mask[1].any()
    undecided = [line for line in study.claim_results if line.undecided]
    assert len(undecided) == 1
    assert "(tested: 4); 1 of 2 cells are missing: " in undecided[0].measured


def test_figures_and_write_name_the_missing_cells(
    draw: Callable[[str], Drawn],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    drawn = draw("schoenholz2017")
    incomplete = without_cells(drawn.results, [0, 1], "cancelled")
    for module in (command, reproductions, questions):
        monkeypatch.setattr(module, "load", lambda name, results, all: incomplete)
    arguments = [drawn.results.name, "--results", str(drawn.results.folder.root.parent)]
    command.main(arguments)
    assert re.search(r"^Warning: 2 of 16 cells are missing: .*; run `", capsys.readouterr().out)
    page = tmp_path / "page.md"
    for study in (reproductions, questions):
        page.write_text(text := "<!-- begin reproductions -->\n<!-- end reproductions -->\n")
        with pytest.raises(SystemExit):
            study.main([*arguments, "--write", str(page)])
        assert "--write needs a complete sweep. 2 of 16 cells" in capsys.readouterr().err
        assert page.read_text() == text
    reproductions.main(arguments)
    n_gains = drawn.results.cells["init.gain"].iloc[:2].nunique()
    assert capsys.readouterr().out.count("| undecided |\n") == n_gains  # a claim for each gain


def test_reproductions_lists_publications_and_links_to_questions(
    studied_sweep: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    name, folder = studied_sweep.name, studied_sweep.folder.root.parent
    reproductions.main([name, "--results", str(folder)])
    page = capsys.readouterr().out
    if launch_record(studied_sweep)["source"] == FIELD_REPORT:
        assert f"[{name}](questions/{name}.md)" in page
        assert "### " not in page
    else:
        assert f"### {name}" in page
        assert f"sweep={name}`" in page


def test_a_questions_page_gets_figures_and_a_link_to_its_claims(
    studied_sweep: Results, tmp_path: Path
) -> None:
    name = studied_sweep.name
    page = tmp_path / "docs" / "questions" / "page.md"
    page.parent.mkdir(parents=True)
    page.write_text(f"By hand.\n<!-- begin {name} -->\n<!-- end {name} -->\n")
    claims = tmp_path / "docs" / "appendix.md"
    claims.write_text(f"<!-- begin {name} -->\n<!-- end {name} -->\n")
    figures = tmp_path / "docs" / "figures"
    options = ["--write", str(page), "--figures", str(figures), "--claims", str(claims)]
    questions.main([name, "--results", str(studied_sweep.folder.root.parent), *options])
    text = page.read_text()
    assert text.startswith("By hand.\n")
    linked = re.findall(r"\]\((\S+\.png)\)", text)
    assert {page.parent / link for link in linked} == {
        page.parent / ".." / "figures" / path.name for path in figures.iterdir()
    }
    assert linked
    assert f"-m sweep={name}`" in text
    assert f"(../appendix.md#{name})" in text
    assert claims.read_text().count("\n| ") >= 3  # header, rule and at least one claim


EXISTING = """| sweep | source | conclusion | claims that hold |
| --- | ---: | ---: | ---: |
| [hebb1949](#hebb1949) | Hebb 1949 | reproduced | 1 of 1 |
| [why](questions/why.md) | field report | not reproduced | 0 of 1 |

### hebb1949

Hebb 1949. Claim: Text with a | in it."""


def test_reproductions_keeps_sweeps_that_are_not_named(
    studied_sweep: Results, tmp_path: Path
) -> None:
    name, folder = studied_sweep.name, studied_sweep.folder.root.parent
    page = tmp_path / "page.md"
    page.write_text(f"<!-- begin reproductions -->\n{EXISTING}\n<!-- end reproductions -->\n")
    arguments = [name, "--results", str(folder), "--write", str(page)]
    reproductions.main(arguments)
    text = page.read_text()
    names = re.findall(r"^\| \[(\w+)\]", text, re.M)
    assert sorted(names) == sorted(["hebb1949", "why", name])
    assert names[0] == "hebb1949"  # publications by year, field reports last
    for line in EXISTING.splitlines():
        assert f"{line}\n" in text
    reproductions.main(arguments)
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("holds", "conclusion"),
    [
        ((True, True, None), "reproduced"),
        ((True, False), "partly reproduced"),
        ((False, None), "not reproduced"),
    ],
)
def test_conclusion_of_several_claims(holds: tuple[bool | None, ...], conclusion: str) -> None:
    lines = tuple(ClaimResult("x", "1", "2", value) for value in holds)
    assert Study("claim", {}, "caption", lines).conclusion == conclusion


def test_an_undecided_claim_is_not_reproduced() -> None:
    lines = (ClaimResult("x", "1", "1", True), ClaimResult("y", "1", "?", None, undecided=True))
    assert Study("claim", {}, "caption", lines).conclusion == "partly reproduced"


@pytest.mark.parametrize("holds", [False, None])
def test_a_study_is_undecided_if_no_claim_holds_and_one_is_undecided(holds: bool | None) -> None:
    lines = (ClaimResult("x", "1", "1", holds), ClaimResult("y", "1", "?", None, undecided=True))
    assert Study("claim", {}, "caption", lines).conclusion == "undecided"


def test_a_sweep_without_a_source_has_no_study(
    small: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study_factory(small) is None
    with pytest.raises(SystemExit):
        reproductions.main(["small", "--results", str(small.folder.root.parent)])
    assert "has no study" in capsys.readouterr().err


def test_a_source_without_a_module_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    text = "source: Nobody 2030\nfixed: {probe.draws: 1}\n"
    (tmp_path / "conf" / "sweep" / "nobody2030.yaml").write_text(text)
    results = run_sweep(tmp_path, "unknown", "sweep=nobody2030", config_dir=tmp_path / "conf")
    with pytest.raises(FaninError, match=r"no module analysis\.figures\.nobody2030"):
        study_factory(results)
