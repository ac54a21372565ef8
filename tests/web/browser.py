"""A real Chromium for tests of the page: found where Debian installs it, without a screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parents[1] / "support" / "data" / "axe" / "axe.min.js"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Messages of a browser's console that say that a page is wrong.
WRONG = ("error", "warning")


@contextmanager
def browsers() -> Iterator[Any]:
    """A running browser; skips, in words, where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


class Reader:
    """A person with a browser of her own. *complaints* are what pages say on the console."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(30_000)
        self.complaints: list[str] = []
        self.base = address.rpartition("/")[0]
        self.page = self.tab()
        self.page.goto(address)
        self.page.wait_for_url(f"{self.base}/")

    def tab(self) -> Any:
        """Another tab of this browser."""
        page = self.context.new_page()
        page.on("console", lambda message: message.type in WRONG and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog opened: {dialog.message}"))
        return page

    def violations(self, page: Any) -> list[str]:
        """The faults that axe finds in a page."""
        page.evaluate(AXE.read_text())
        found = page.evaluate(
            "() => axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
        )
        return [f"{v['id']}: {v['help']} ({v['nodes'][0]['html'][:200]})" for v in found["violations"]]

    def close(self) -> None:
        self.context.close()
