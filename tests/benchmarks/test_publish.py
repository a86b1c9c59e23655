"""The pages are written from the stored results, and say how these were measured."""

import re
from dataclasses import replace

import pytest

from benchmarks import publish
from benchmarks.machine import machine, versions
from benchmarks.registry import NAMED_ONLY, SECTIONS
from benchmarks.results import STORED, Result, read_results
from benchmarks.sections import training
from fanin.errors import FaninError

RECORD = {
    **{"model": "mlp", "shape": "1x28x28", "batch_size": 64, "steps": 10, "parameters": 1000},
    **{"flops": 8_000_000, "bytes": 1_000_000},
    **{"gemm_flops_per_second": [1e11], "bytes_per_second": [1e10]},
    "seconds_per_step": {"fanin": [200e-6], "plain": [300e-6]},
}
RESULT = Result(
    *("training", "full", "python -m benchmarks --full", "2026-01-01", "2 cores", "python 3"),
    *((0.1, 1.0), 60.0, [RECORD]),
)


def stored():
    results = read_results(STORED, (*SECTIONS, *NAMED_ONLY))
    return {name: results[name] for name in publish.TITLES if name in results}


def test_the_pages_of_the_documentation_are_those_of_the_stored_results():
    assert (publish.DOCS / "performance.md").read_text() == publish.short_page(stored())
    appendix = publish.DOCS / "appendix" / "performance.md"
    assert appendix.read_text() == publish.long_page(stored())


def test_every_section_has_a_title_and_those_that_always_run_a_plot():
    assert set(publish.TITLES) == {*SECTIONS, *NAMED_ONLY}
    assert set(publish.CAPTIONS) == set(SECTIONS)


def test_pages_and_plots_are_written_from_the_results_of_one_section(tmp_path):
    RESULT.save(tmp_path / "results")
    paths = publish.write_pages(tmp_path / "results", tmp_path / "docs")
    page, appendix, plot = paths
    assert "1.50 (mlp) to 1.50 (mlp) times the speed of the faster of two" in page.read_text()
    assert "| mlp | 1 | 1.50 | 1.50 |  | 50 | bandwidth |" in page.read_text()
    assert "`python -m benchmarks --full` in 60 s, 2026-01-01: 2 cores, load 0.1 to 1.0" in (
        appendix.read_text()
    )
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert f"(figures/{plot.name})" in page.read_text()


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(FaninError, match="no results; measure with python -m benchmarks --quick"):
        publish.write_pages(tmp_path)


def test_results_of_a_small_or_disturbed_run_are_called_preliminary():
    assert publish.preliminary({"training": RESULT}) == ""
    quick = replace(RESULT, mode="quick")
    assert "from a quick run with few repetitions" in publish.preliminary({"training": quick})
    busy = replace(RESULT, load=(2.0, 2.0))
    text = publish.preliminary({"training": RESULT, "engines": busy})
    assert "beside other programs (load average up to 2.0)" in text


def test_a_result_is_read_as_it_was_saved(tmp_path):
    RESULT.save(tmp_path)
    assert read_results(tmp_path, SECTIONS) == {"training": RESULT}


def test_the_machine_and_versions_are_named():
    assert re.match(r"\d+ cores of .+, Linux ", machine())
    assert re.match(r"python 3\S+, fanin \S+, torch \d", versions())


def test_the_table_of_the_default_batch_size_is_on_the_first_page():
    larger = RECORD | {"batch_size": 256}
    assert training.short_table([RECORD, larger]) == training.short_table([RECORD])
