"""Fixtures: a small sweep for the report, its page, and a headless browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_sweep import run_hostile_sweep
from playwright.sync_api import Browser, Page, sync_playwright

from analysis import Results
from analysis.report.page import TheoryOptions, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run a sweep of 24 cells; some diverge and some fail."""
    return run_hostile_sweep(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def page_path(hostile: Results) -> Path:
    """Write the report of `hostile`, with theory."""
    return write_report(hostile.name, hostile.folder.root.parent, TheoryOptions())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; run apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a file; console messages and network requests fail the test."""
    problems: list[str] = []
    contexts = []

    def open_page(path: Path, **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)  # milliseconds, on a busy machine
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        page.on("request", lambda r: r.url.startswith("http") and problems.append(r.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
