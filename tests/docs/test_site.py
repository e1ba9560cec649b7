"""The site of the docs: built strictly, readable on a phone, accessible, of its own files alone."""

import functools
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

import bnlstm_deploy
from bnlstm_deploy.checkpoint import shipped_layouts
from tests.serve.browser import chromium

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
PHONE = 360  # pixels
SCHEMES = {"light": "default", "dark": "slate"}

FADED = """() => Promise.all(document.getAnimations()
    .filter(animation => animation.effect.getComputedTiming().endTime !== Infinity)
    .map(animation => animation.finished.catch(() => null)))"""
"""Waits until colours are what they fade to."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page(address):
    """A page of the browser that asks the site alone."""
    with chromium() as browser:
        page = browser.new_page()
        page.add_init_script("localStorage.clear()")  # else the first scheme stays
        elsewhere = []
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "data:"))
                else elsewhere.append(request.url)
            ),
        )
        yield page
        assert elsewhere == []


@pytest.mark.parametrize(
    ("name", "scheme"), [*((name, "light") for name in PAGES), ("index", "dark"), ("api", "dark")]
)
def test_a_page_is_readable_and_accessible(page, address, name, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": PHONE, "height": 740})
    page.goto(f"{address}{name}.html")
    page.locator(f"body[data-md-color-scheme={SCHEMES[scheme]}]").wait_for(state="attached")
    page.evaluate(FADED)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    found = Axe().run(page).response["violations"]
    problems = [(v["id"], [node["html"][:120] for node in v["nodes"][:3]]) for v in found]
    assert problems == []


def test_search_finds_a_page(page, address):
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{address}index.html")
    page.locator("[data-md-component='search-query']").first.click()
    page.keyboard.type("population statistics")
    page.locator(".md-search-result__link").first.wait_for()


def test_the_reference_has_every_class_and_function(site):
    text = (site / "api.html").read_text()
    assert 'id="bnlstm_deploy.nn.bnlstm.BNLSTM"' in text
    for name in bnlstm_deploy.__all__:
        assert name in text


def test_the_gallery_has_every_layout(site):
    text = (site / "layouts.html").read_text()
    for name in shipped_layouts():
        assert f"layouts show {name}" in text
