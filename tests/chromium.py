"""A real browser, headless."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PATIENCE = 60_000
"""Milliseconds: a busy machine draws a chart in many seconds."""


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start one; a machine without Chromium skips the test."""
    from playwright.sync_api import expect, sync_playwright

    from tests.conftest import unavailable

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        unavailable("there is no Chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()
