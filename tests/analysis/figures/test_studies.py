"""Published figures made again, each from a small run of its own sweep."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from small_sweep import run_sweep

from analysis import Results
from analysis.figures import __main__ as command
from analysis.figures.study import FIELD_REPORT, ClaimResult, Study, launch_record, study_factory
from analysis.studies import questions, reproductions
from fanin.errors import FaninError

# What makes each small: fewer draws, narrower networks.
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


@dataclass(frozen=True)
class Drawn:
    """A sweep, its study, and what the command that drew it printed."""

    results: Results
    study: Study
    printed: str


@pytest.fixture(scope="session")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Drawn]:
    """`draw(sweep)` runs a sweep and the command; each sweep runs, and is studied, once."""
    known: dict[str, Drawn] = {}

    def drawn(sweep: str) -> Drawn:
        if sweep not in known:
            words = (f"sweep={sweep}", *SMALLER[sweep])
            folder = tmp_path_factory.mktemp("studies")
            known[sweep] = _draw(run_sweep(folder, sweep, *words, small=["runner=inline"]))
        return known[sweep]

    return drawn


def _draw(results: Results) -> Drawn:
    studies: list[Study] = []

    def recorded(loaded: Results) -> Callable[[], Study]:
        make = study_factory(loaded)
        assert make is not None
        studies.append(make())
        return lambda: studies[0]

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(command, "study_factory", recorded)
        command.main([results.name, "--results", str(results.folder.root.parent)])
    return Drawn(results, studies[0], printed.getvalue())


@pytest.fixture(params=["glorot2010", "dying_relu"])
def one_of_each(
    request: pytest.FixtureRequest, draw: Callable[[str], Drawn], monkeypatch: pytest.MonkeyPatch
) -> Results:
    """A publication and a field report; pages take the study that was made of it."""
    made = draw(request.param)
    for page in (reproductions, questions):
        monkeypatch.setattr(page, "require_study", lambda results: made.study)
    return made.results


def test_every_published_sweep_is_tried() -> None:
    conf = Path(__file__).parents[3] / "conf" / "sweep"
    published = {path.stem for path in conf.glob("*.yaml") if "\nsource:" in path.read_text()}
    assert published == set(SMALLER)


@pytest.mark.parametrize("sweep", sorted(SMALLER))
def test_the_command_draws_a_study_and_tells_its_verdict(
    sweep: str, draw: Callable[[str], Drawn]
) -> None:
    made = draw(sweep)
    study, results = made.study, made.results
    assert study.figures
    assert all(name.startswith(sweep) for name in study.figures)
    assert all(
        line.claimed and line.measured and "nan" not in line.measured
        for line in study.claim_results
    )
    assert any(line.holds is not None for line in study.claim_results)
    assert "draws" in study.caption or "seeds" in study.caption
    assert launch_record(results)["criterion"]
    assert "eproduced: " in made.printed
    for ends in ("pdf", "svg", "png", "txt"):
        drawn = list((results.folder.root / "figures").glob(f"{sweep}*.{ends}"))
        assert drawn
        assert all(path.stat().st_size > 100 for path in drawn)


def test_the_page_of_all_has_publications_and_links_to_questions(
    one_of_each: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    made = one_of_each
    reproductions.main([made.name, "--results", str(made.folder.root.parent)])
    page = capsys.readouterr().out
    if launch_record(made)["source"] == FIELD_REPORT:
        assert f"[{made.name}](questions/{made.name}.md)" in page
        assert "### " not in page
    else:
        assert f"### {made.name}" in page
        assert f"sweep={made.name}`" in page


def test_a_questions_page_gets_numbers_and_figures(one_of_each: Results, tmp_path: Path) -> None:
    made = one_of_each
    page = tmp_path / "docs" / "questions" / "page.md"
    page.parent.mkdir(parents=True)
    page.write_text(f"By hand.\n<!-- begin {made.name} -->\n<!-- end {made.name} -->\n")
    figures = tmp_path / "docs" / "figures"
    words = ["--write", str(page), "--figures", str(figures)]
    questions.main([made.name, "--results", str(made.folder.root.parent), *words])
    text = page.read_text()
    assert text.startswith("By hand.\n")
    linked = re.findall(r"\]\((\S+\.png)\)", text)
    assert {page.parent / link for link in linked} == {
        page.parent / ".." / "figures" / path.name for path in figures.iterdir()
    }
    assert linked
    assert f"-m sweep={made.name}`" in text


OLDER = """| sweep | source | verdict | lines that hold |
| --- | ---: | ---: | ---: |
| [hebb1949](#hebb1949) | Hebb 1949 | reproduced | 1 of 1 |
| [why](questions/why.md) | field report | not reproduced | 0 of 1 |

### hebb1949

Hebb 1949. Claim: Text with a | in it."""


def test_the_page_of_all_keeps_what_is_not_named(one_of_each: Results, tmp_path: Path) -> None:
    made = one_of_each
    page = tmp_path / "page.md"
    page.write_text(f"<!-- begin reproductions -->\n{OLDER}\n<!-- end reproductions -->\n")
    words = [made.name, "--results", str(made.folder.root.parent), "--write", str(page)]
    reproductions.main(words)
    once = page.read_text()
    names = re.findall(r"^\| \[(\w+)\]", once, re.M)
    assert sorted(names) == sorted(["hebb1949", "why", made.name])
    assert names[0] == "hebb1949"  # publications by year, field reports last
    for line in OLDER.splitlines():
        assert f"{line}\n" in once
    reproductions.main(words)
    assert page.read_text() == once


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        ((True, True, None), "reproduced"),
        ((True, False), "partly reproduced"),
        ((False, None), "not reproduced"),
    ],
)
def test_the_verdict_is_the_criterions(holds: tuple[bool | None, ...], verdict: str) -> None:
    lines = tuple(ClaimResult("x", "1", "2", each) for each in holds)
    assert Study("claim", {}, "caption", lines).conclusion == verdict


def test_what_the_data_cant_tell_is_not_reproduced() -> None:
    lines = (ClaimResult("x", "1", "1", True), ClaimResult("y", "1", "?", None, undecided=True))
    assert Study("claim", {}, "caption", lines).conclusion == "partly reproduced"


def test_a_sweep_without_a_source_has_no_study(
    small: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study_factory(small) is None
    with pytest.raises(SystemExit):
        reproductions.main(["small", "--results", str(small.folder.root.parent)])
    assert "makes no study" in capsys.readouterr().err


def test_a_source_without_a_module_is_said(tmp_path: Path) -> None:
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    text = "source: Nobody 2030\nfixed: {probe.draws: 1}\n"
    (tmp_path / "conf" / "sweep" / "nobody2030.yaml").write_text(text)
    found = run_sweep(tmp_path, "mine", "sweep=nobody2030", config_dir=tmp_path / "conf")
    with pytest.raises(FaninError, match=r"no module analysis\.figures\.nobody2030"):
        study_factory(found)
