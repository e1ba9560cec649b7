"""examples/web: the trained digits in WebAssembly and in Node.js, against Python's answers."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from bnlstm_deploy.checkpoint import load
from bnlstm_deploy.exporting import export
from bnlstm_deploy.runtime import Session
from tests.serve.browser import chromium
from tools.digits import load as load_digits
from tools.digits import order

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WEB = ROOT / "examples" / "web"
CLOSE = 1e-5
READ = "[...document.querySelectorAll('#answer')].some(e => e.textContent)"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example as its README builds it, in a folder of its own."""
    if shutil.which("npm") is None:
        reason = "there is no npm; install Debian's packages nodejs and npm"
        pytest.fail(reason) if "CI" in os.environ else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules", "ort", "*.onnx"))
    for arguments in (("install", "--ignore-scripts", "--no-audit", "--no-fund"), ("run", "build")):
        done = subprocess.run(
            ["npm", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    model = load(ROOT / "models" / "permuted-digits")
    export(model, folder / "site" / "digits.onnx", state="required")
    return folder


@pytest.fixture(scope="module")
def session(site):
    return Session(site / "site" / "digits.onnx", native=False)


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
            ".mjs": "text/javascript"
        }

        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=site / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """The page when its model is loaded; fetches nothing from elsewhere, complains of nothing."""
    context = browser.new_context()
    context.set_default_timeout(60_000)
    page = context.new_page()
    complaints, addresses = [], []
    page.on("console", lambda m: complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(address)
    page.locator("body[data-ready]").wait_for()
    yield page
    assert complaints == []
    assert all(a.startswith((address, "data:")) for a in addresses)
    context.close()


def streamed(session, x):
    """Return the output at each timestep of (T, D), as Python streams it."""
    state, outputs = None, []
    for features in x:
        output, state = session(features[None, None], state=state)
        outputs.append(output[0])
    return np.array(outputs)


def test_the_pages_digits_are_the_test_sets():
    given = json.loads((WEB / "site" / "digits.json").read_text())
    assert given["order"] == order().tolist()
    known = {tuple(np.round(16 * x).astype(int)): y for x, y in zip(*images(), strict=True)}
    labels = [known[tuple(sample)] for sample in given["samples"]]
    assert labels == list(range(10))


def images():
    """Return the test set, row by row, and its labels."""
    test = load_digits().test
    images = np.empty((len(test.y), 64))
    images[:, order()] = test.x[:, :, 0]
    return images, test.y


def test_streams_in_webassembly_are_pythons(page, session):
    x = load_digits().test.x[:3]
    for sequence in x:
        outputs = page.evaluate(
            """async sequence => {
                const { open, stream } = await import("./model.js");
                const session = await open("digits.onnx");
                const outputs = [];
                for await (const output of stream(session, sequence)) outputs.push([...output]);
                return outputs;
            }""",
            sequence.tolist(),
        )
        np.testing.assert_allclose(outputs, streamed(session, sequence), rtol=0, atol=CLOSE)


def test_a_sample_is_read_to_its_end(page, session):
    samples = json.loads((WEB / "site" / "digits.json").read_text())["samples"]
    pixels = np.array(samples[3], np.float32)[order(), None] / 16
    logits = streamed(session, pixels)[-1]
    page.get_by_label("or take a").select_option("3")
    page.wait_for_function(READ)
    chance = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    expected = f"It is a {logits.argmax()} ({round(100 * chance.max())} %)."
    assert page.locator("#answer").text_content() == expected


def test_a_drawing_is_read(page):
    box = page.locator("#pad").bounding_box()
    turn = np.linspace(0, 2 * np.pi, 24)
    xs, ys = box["x"] + 128 - 60 * np.sin(turn), box["y"] + 128 - 90 * np.cos(turn)
    page.mouse.move(xs[0], ys[0])
    page.mouse.down()
    for x, y in zip(xs, ys, strict=True):
        page.mouse.move(x, y)
    page.mouse.up()
    page.wait_for_function(READ)
    assert page.locator("#answer").text_content().startswith("It is a 0 ")
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#answer").text_content() == ""


@pytest.mark.parametrize("width", [320, 1280])
def test_it_fits_and_is_accessible(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert Axe().run(page).violations_count == 0


def test_nodes_stream_is_pythons(site, session):
    command = ["node", "node.mjs", "site/digits.onnx"]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outputs = np.array([line.split() for line in done.stdout.splitlines()], np.float64)
    x = (np.arange(64) / 64).astype(np.float32)[:, None]
    np.testing.assert_allclose(outputs, streamed(session, x), rtol=0, atol=CLOSE)
