"""The pages are written from the stored results, and say how these were measured."""

import re
from dataclasses import replace

import pytest

from benchmarks import publish
from benchmarks.machine import machine, versions
from benchmarks.registry import NAMED_ONLY, SECTIONS
from benchmarks.results import STORED, Result, read_results
from benchmarks.sections import slurm, training
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


def test_results_of_another_commit_are_marked_with_commit_and_day():
    records = [
        {"method": method, "time_per_cell": "1 s", "cells": 64, "seconds": [seconds]}
        for method, seconds in ((slurm.HYDRA, 300.0), (slurm.FANIN, 100.0))
    ]
    older = {
        "date": "2025-12-01",
        "versions": "python 3, fanin 123abc, torch 2",
        "load": (4.0, None),
    }
    results = {
        "training": replace(RESULT, versions="fanin 456def, torch 2"),
        "slurm": replace(RESULT, section="slurm", records=records, **older),
    }
    assert publish.origin(results["training"], "456def") == ""
    (bullet,) = [line for line in publish.short_page(results).splitlines() if "On Slurm" in line]
    assert bullet.endswith("(Measured at another commit: 123abc, 2025-12-01, load average 4.0.)")
    text = publish.preliminary(results)
    assert "(load average up to 4.0), from several versions of the code" in text
    assert "--full --write training slurm` on an idle machine" in text
    assert "measures this section now" in publish.long_page(results)


def test_the_duration_of_the_full_run_is_that_of_the_results():
    results = {name: replace(RESULT, section=name, seconds=300.0) for name in SECTIONS}
    assert publish.full_minutes(results) == 5 * len(SECTIONS)
    results["sweep"] = replace(RESULT, seconds=None)
    assert publish.full_minutes(results) is None
    assert publish.full_minutes({"training": RESULT}) is None
    assert publish.full_minutes({}) is None
    assert "`--full` took" not in publish.short_page({"training": RESULT})


def test_a_result_is_read_as_it_was_saved(tmp_path):
    RESULT.save(tmp_path)
    assert read_results(tmp_path, SECTIONS) == {"training": RESULT}


def test_the_machine_and_versions_are_named():
    assert re.match(r"\d+ cores of .+, Linux ", machine())
    assert re.match(r"python 3\S+, fanin \S+, torch \d", versions())


def test_the_table_of_the_default_batch_size_is_on_the_first_page():
    larger = RECORD | {"batch_size": 256}
    assert training.short_table([RECORD, larger]) == training.short_table([RECORD])
