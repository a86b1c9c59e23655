"""A small real sweep with everything that a report tells, its page, and a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from told_sweep import run_told

from analysis import Results
from analysis.report.page import Theory, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Four inits, two learning rates, three seeds: some diverge, some fail."""
    return run_told(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def page_path(told: Results) -> Path:
    """Its page, with theory."""
    return write_report(told.name, told.folder.root.parent, Theory())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: as root, apt-get install chromium; then this is tested")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """`open_page(path)` opens a file; whatever the console or the page complains of fails."""
    complaints: list[str] = []
    contexts = []

    def open_page(path: Path, **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)  # milliseconds, on a busy machine
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda r: r.url.startswith("http") and complaints.append(r.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
