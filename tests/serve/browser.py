"""The server on a socket in this process, and headless Chromium that looks at its page."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright
from starlette.types import ASGIApp

CHROMIUM = shutil.which("chromium")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextlib.contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port of 127.0.0.1; yield its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "uvicorn did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; without one skip, but fail where all tests must run."""
    if CHROMIUM is None:
        reason = "there is no chromium; install Debian's package of that name"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One visit of the page: what it complained of, and where it went."""

    page: Page
    server: str
    complaints: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def open(self, model: str = "digits", tab: str | None = None) -> Page:
        """Open a model's page, with one of the ways to ask."""
        self.page.goto(f"{self.server}#{model}/1")
        self.page.get_by_role("heading", level=1, name=model).wait_for()
        if tab:
            self.page.get_by_role("tab", name=tab).click()
        return self.page

    def ask(self) -> None:
        """Ask with what is in the form, and wait for the answer."""
        self.page.get_by_role("button", name="Ask", exact=True).click()
        self.page.locator(".status", has_text="Answered in").wait_for()

    def numbers(self) -> list[list[float]]:
        """Return the table of the answer: in each row the timestep, and the values there."""
        rows: list[list[str]] = self.page.locator(".numbers tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return [[float(cell) for cell in row] for row in rows]


@contextlib.contextmanager
def visit(browser: Browser, server: str, **options: Any) -> Iterator[Visit]:
    """Look at a page of its own; `options` are those of a Playwright context."""
    context = browser.new_context(**options)
    context.set_default_timeout(20_000)
    page = context.new_page()
    visit = Visit(page, server)
    complain = visit.complaints.append
    page.on("console", lambda m: complain(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complain(str(error)))
    context.on("request", lambda request: visit.addresses.append(request.url))
    yield visit
    context.close()
