"""A real Chromium, wherever this machine has one."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    """Find Chromium: the system's, or the one that `playwright install chromium` has fetched."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found:
        return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


@contextmanager
def chromium() -> Generator[Browser]:
    """Start Chromium; a machine that has none skips the test, and says so."""
    found = executable()
    if found is None:
        pytest.skip("no Chromium is here, so no page was opened in a browser: `make browser` gets one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, chromium_sandbox=False)
        yield browser
        browser.close()


if __name__ == "__main__":
    raise SystemExit(0 if executable() else 1)
