"""The page: its JSON, and in headless Chromium what it shows."""

import io
import itertools
import json
import subprocess
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from torch import nn

from bnlstm_deploy.checkpoint import load_checkpoint
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM, BNLSTMModel
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve import page as page_module
from bnlstm_deploy.serve.app import create_app
from bnlstm_deploy.serve.drawing import path_of
from bnlstm_deploy.serve.engine import Engine
from bnlstm_deploy.serve.settings import Settings
from bnlstm_deploy.serve.stats import SPAN
from tests.models import randomize
from tests.serve.browser import chromium, listening, visit
from tests.serve.local import Client
from tests.serve.wire import tensor
from tools.page import drawing
from tools.page import main as describe

pytestmark = pytest.mark.slow

MARKUP = "<img src=x onerror=alert(1)>"
X = np.random.default_rng(0).standard_normal((3, 7, 2)).astype(np.float32)


class Changed(nn.Module):
    """Does something over time after its BNLSTM, so that its file cannot be padded."""

    def __init__(self, rnn, change):
        super().__init__()
        self.rnn, self.change = rnn, change

    def forward(self, input):
        return self.change(self.rnn(input)[0])


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The trained example, described, and small models with each kind of output."""
    folder = tmp_path_factory.mktemp("models")
    found = {
        name: folder / f"{name}.onnx" for name in ("digits", "over-time", "last", "mean", "softmax")
    }
    export(load_checkpoint("models/permuted-digits"), found["digits"])
    describe(found["digits"])
    torch.manual_seed(0)
    recurrent = {"batch_first": True, "max_length": 5}
    export(randomize(BNLSTM(2, 4, **recurrent)), found["over-time"])
    export(randomize(BNLSTMModel(BNLSTM(2, 4, **recurrent), 3)), found["last"])
    for name, change in (("mean", lambda y: y.mean(1)), ("softmax", lambda y: y.softmax(1))):
        model = randomize(Changed(BNLSTM(2, 4, **recurrent), change))
        export(model, found[name], (torch.zeros(2, 4, 2),))
    return found


@pytest.fixture(scope="module")
def engines(paths):
    """One engine for each file; the last has markup for a name."""
    with ExitStack() as stack:
        engines = [Engine(path, name=name, threads=1) for name, path in paths.items()]
        engines.append(Engine(paths["last"], name=MARKUP, threads=1))
        for engine in engines:
            stack.callback(engine.close)
            engine.warm_up()
        yield engines


@pytest.fixture(scope="module")
def client(engines):
    """A client of the application, without a browser."""
    with Client(create_app(engines, Settings())) as client:
        yield client


@pytest.fixture(scope="module")
def server(engines):
    """The address of the application on a socket."""
    with listening(create_app(engines, Settings())) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser, server):
    """A visit that must end without complaints, and without leaving the server."""
    with visit(browser, server) as visitor:
        yield visitor
    assert visitor.complaints == []
    assert visitor.addresses
    assert all(address.startswith(server) for address in visitor.addresses)


def test_facts(client, paths, engines):
    models = {model["name"]: model for model in client.get("/page/models").json()["models"]}
    assert list(models) == sorted([*paths, MARKUP])
    digits = models["digits"]
    session = Session(paths["digits"])
    assert digits["infer"] == "v2/models/digits/versions/1/infer"
    assert digits["file"] == {"name": "digits.onnx", "bytes": paths["digits"].stat().st_size}
    assert digits["metadata"]["form"] == session.metadata.form
    assert digits["metadata"]["steps"] == 64
    assert digits["metadata"]["verified"] == dict(session.metadata.verified)
    assert digits["drawing"]["order"] == list(drawing().order)
    assert models["last"]["drawing"] is None
    assert digits["limits"]["max_batch"] == engines[0].limits.max_batch
    own = [value["name"] for value in digits["inputs"] + digits["outputs"] if value["own"]]
    assert own == [value.name for value in (*session.inputs, *session.outputs)]
    assert models["over-time"]["inputs"][0]["time_axis"] == 1
    assert MARKUP not in models[MARKUP]["infer"]


def of(client, name, since=0.0):
    models = client.get(f"/page/live?since={since}").json()["models"]
    return next(model for model in models if model["name"] == name)


def test_live(client):
    before = of(client, "over-time")
    infer = "/v2/models/over-time/infer"
    assert client.post(infer, json={"inputs": [tensor("input", X)]}).status_code == 200
    assert client.post(infer, json={"inputs": []}).status_code == 400
    after = of(client, "over-time")
    assert after["requests"] == before["requests"] + 2
    assert after["failures"] == {"invalid": 1}
    median, most = after["latency"]
    assert 0 < median <= most
    rates, failed = ([span[i] for span in after["spans"]] for i in (1, 4))
    assert sum(rates) * SPAN == after["requests"]
    assert sum(failed) == 1
    assert after["executions"] == before["executions"] + 1
    assert after["inferences"] == before["inferences"] + len(X)
    assert len(after["recent"]) == len(before["recent"]) + 1
    time, queue, compute, batch = after["recent"][-1]
    assert (queue >= 0, compute > 0, batch) == (True, True, len(X))
    assert of(client, "over-time", since=time)["recent"] == []
    assert after["ready"]


def test_the_browser_may_read_from_the_server_only(client):
    for path in ("/", "/page/page.js", "/page/page.css", "/page/icon.svg"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/page/page.js").headers["content-type"].startswith("text/javascript")


def test_whether_the_page_is_there_can_be_asked(client):
    answer = client.runner.run(client.http.head("/"))
    assert answer.status_code == 200
    assert not answer.content


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpage.py", "../page.py", "%2Fetc%2Fpasswd"])
def test_files_that_are_not_the_page_s(client, name):
    assert client.get(f"/page/{name}").status_code == 404


def test_each_file_fits_on_a_few_screens():
    for path in page_module.STATIC.iterdir():
        assert len(path.read_text().splitlines()) < 300, path.name
        assert "http" not in path.read_text().replace("http://www.w3.org/", ""), path.name


def test_a_wrong_description_is_an_error_at_the_start(tmp_path, paths):
    model = tmp_path / "digits.onnx"
    model.write_bytes(paths["digits"].read_bytes())
    path_of(model).write_text('{"kind": "sound"}')
    engine = Engine(model, threads=1)
    try:
        with pytest.raises(InputError, match="Invalid enum value 'sound'"):
            create_app([engine], Settings())
    finally:
        engine.close()


def test_models_and_their_facts_are_shown(visitor, paths):
    page = visitor.open()
    links = page.get_by_role("navigation", name="Models").get_by_role("link")
    assert links.all_inner_texts() == sorted([*paths, MARKUP])
    graph = page.get_by_role("region", name="Graph")
    metadata = Session(paths["digits"]).metadata
    for text in (metadata.checkpoint_sha256, metadata.reason, "digits.onnx"):
        expect(graph.get_by_text(text).first).to_be_visible()
    expect(page.get_by_text("This file carries no record of a check")).to_be_visible()
    links.get_by_text("mean", exact=True).click()
    page.get_by_role("heading", level=1, name="mean").wait_for()
    page.get_by_role("link", name="Skip to the model").press("Enter")  # changes the address too
    assert page.title() == "mean · bnlstm-deploy"
    expect(page.get_by_role("tab", name="Draw")).to_have_count(0)


def test_names_are_text(visitor):
    page = visitor.open()
    page.get_by_role("link", name=MARKUP).click()
    page.get_by_role("heading", level=1, name=MARKUP).wait_for()
    assert page.locator("main img").count() == 0
    page.get_by_role("tab", name="Numbers").click()
    visitor.ask()


def draw(page, *points):
    """Draw lines between points, in parts of the field's size."""
    box = page.get_by_label("Draw a digit").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def test_a_drawn_digit_is_answered_as_a_session_does(visitor, paths):
    page = visitor.open()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()
    draw(page, (0.3, 0.2), (0.7, 0.2), (0.4, 0.8))
    draw(page, (0.35, 0.5), (0.65, 0.5))
    with page.expect_request("**/infer") as first:
        visitor.ask()
    (sent,) = json.loads(first.value.post_data)["inputs"]
    x = np.array(sent["data"], np.float32).reshape(sent["shape"])
    assert x.shape == (1, 64, 1)
    image = np.zeros(64)
    image[list(drawing().order)] = x[0, :, 0]
    ink = image.reshape(8, 8).sum(axis=1)
    assert ink.min() > 0  # it fills the height
    assert ink[0] > 2 * ink[7]  # a bar above, a point below
    session = Session(paths["digits"])
    rows = np.array(visitor.numbers())
    np.testing.assert_array_equal(rows[:, 0], np.arange(1, 65))
    expected = np.concatenate([session(x[:, :t])[0] for t in range(1, 65)])
    np.testing.assert_allclose(rows[:, 1:], expected, rtol=1e-4, atol=1e-4)
    logits = np.exp(expected[-1] - expected[-1].max())
    best = f"{logits.argmax()} ({100 * logits.max() / logits.sum():.1f} %)"
    expect(page.locator(".verdict")).to_contain_text(best)
    page.get_by_role("slider", name="Timestep").fill("9")
    expect(page.get_by_text("timestep 10 of 64")).to_be_visible()
    assert page.locator(".moment rect.read, .moment rect.now").count() == 10


def test_a_drawn_line_covers_the_pixels_it_should(visitor):
    page = visitor.open()
    draw(page, (0.2, 0.2), (0.2, 0.6))  # moved to the middle and scaled: 1.4 pixels around x = 4
    with page.expect_request("**/infer") as first:
        visitor.ask()
    image = np.zeros(64)
    image[list(drawing().order)] = json.loads(first.value.post_data)["inputs"][0]["data"]
    image = image.reshape(8, 8)
    np.testing.assert_array_equal(image[1:7], [[0, 0, 0, 0.75, 0.75, 0, 0, 0]] * 6)
    np.testing.assert_array_equal(image[0], image[7])
    assert 0 < image[0, 3] < 0.75


def test_a_digit_is_drawn_by_keys(visitor):
    page = visitor.open()
    pad = page.get_by_label("Draw a digit")
    pad.focus()
    for key in (" ", *["ArrowDown"] * 8, *["ArrowRight"] * 3, " ", "ArrowUp"):
        pad.press(key)
    visitor.ask()
    assert len(visitor.numbers()) == 64
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_disabled()


def npz(writer=np.savez, **arrays):
    file = io.BytesIO()
    writer(file, **arrays)
    return file.getvalue()


def upload(page, content):
    payload = {"name": "x.npz", "mimeType": "application/zip", "buffer": content}
    page.get_by_label("Arrays, written by numpy.savez").set_input_files(payload)


FILES = {
    "stored": (npz(input=X), ""),
    "deflated": (npz(np.savez_compressed, input=X), ""),
    "column by column": (npz(input=np.asfortranarray(X)), ""),
    "float64": (npz(any_name=X.astype(np.float64)), "input is FP64, and was sent as FP32."),
}


@pytest.mark.parametrize(
    ("model", "kind"), [("softmax", "stored"), *(("over-time", kind) for kind in FILES)]
)
def test_an_uploaded_file_is_answered_as_a_session_does(visitor, paths, model, kind):
    page = visitor.open(model, "File")
    content, note = FILES[kind]
    upload(page, content)
    page.get_by_label("Sequence to show").fill("2")
    visitor.ask()
    expect(page.locator(".status")).to_contain_text(f"Sequence 2 of 3. {note}".strip())
    rows = np.array(visitor.numbers())
    np.testing.assert_array_equal(rows[:, 0], np.arange(1, 8))
    expected, _ = Session(paths[model])(X[2:])
    np.testing.assert_allclose(rows[:, 1:], expected[0], atol=1e-5)


@pytest.mark.parametrize("model", ["last", "mean"])
def test_one_output_for_a_sequence_is_shown_as_it_evolves(visitor, paths, model):
    page = visitor.open(model, "File")
    upload(page, npz(input=X))
    visitor.ask()
    session = Session(paths[model])
    expected = np.concatenate([session(X[:1, :t])[0] for t in range(1, 8)])
    np.testing.assert_allclose(np.array(visitor.numbers())[:, 1:], expected, atol=1e-5)


def test_optional_inputs_may_be_in_the_file(visitor, paths):
    page = visitor.open("last", "File")
    session = Session(paths["last"])
    _, state = session(X)
    given = {"input": X, "initial_h": state.h, "initial_c": state.c, "start_step": state.step}
    upload(page, npz(**given, lengths=np.array([5.0, 7.0, 2.0])))
    visitor.ask()
    expect(page.locator(".status")).to_contain_text("lengths is FP64, and was sent as INT64.")
    rows = [session.run({**given, "lengths": np.full(3, t)})["output"][0] for t in range(1, 6)]
    np.testing.assert_allclose(np.array(visitor.numbers())[:, 1:], rows, atol=1e-5)


def test_what_is_not_finite(visitor):
    page = visitor.open("over-time", "File")
    x = X[:1].copy()
    x[0, 3] = np.nan
    upload(page, npz(input=x))
    visitor.ask()
    cells = page.locator(".numbers tbody tr:last-child td").all_text_contents()
    assert cells == ["7", *["NaN"] * 4]
    upload(page, npz(input=np.full_like(x, np.inf)))
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".status.alarm")).to_contain_text("infinite values, which JSON cannot")


def test_all_kinds_of_arrays_are_read(visitor):
    page = visitor.open()
    base = np.arange(-6, 6).reshape(3, 2, 2)
    kinds = ["<f4", ">f4", "<f8", ">f8", "i1", "<i2", ">i4", "<i8", ">i8", "u1", ">u2", "u4", "?"]
    arrays = {kind: np.asarray(base % 9 if "u" in kind else base).astype(kind) for kind in kinds}
    arrays |= {"scalar": np.float32(0.1), "empty": np.zeros((0, 3)), "turned": base.T}
    content = npz(np.savez_compressed, **arrays)
    read = """async (bytes) => {
      const { readNpz } = await import("/page/npz.js");
      return readNpz(new Uint8Array(bytes).buffer, 1e6);
    }"""
    found = page.evaluate(read, list(content))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name]["shape"] == list(array.shape)
        assert found[name]["data"] == array.ravel().tolist(), name


def cut(content):
    return content[: len(content) // 2] + content[len(content) * 3 // 4 :]


def flip(content):
    middle = content.index(b"NUMPY") + 130  # a number of the array
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


MALFORMED = {
    b"": "This is no .npz file",
    b"PK\x05\x06" + bytes(18): "The archive holds no arrays",
    bytes(range(256)) * 9: "This is no .npz file",
    npz(input=X)[:-40]: "This is no .npz file",
    cut(npz(input=X)): "damaged",
    flip(npz(input=X)): "damaged: “input.npy” is not complete",
    flip(npz(np.savez_compressed, input=X)[:1] + npz(input=X)[1:]): "damaged",
    npz(input=np.array([{}])): "“input” is of the type O, which cannot be sent",
    npz(input=np.zeros(3, [("a", "f4")])): "which cannot be sent",
    npz(input=np.array([2**60])): "which JSON cannot carry exactly",
    npz(x=X, y=X): "The file has the arrays x, y; this model takes input, and optionally",
    npz(input=X[0]): "“input” has the shape (7, 2); the model takes (any, any, 2).",
    npz(input=X > 0): "“input” is BOOL; the model takes FP32",
}


def test_a_malformed_file_gives_a_message(visitor):
    page = visitor.open("over-time", "File")
    for content, message in MALFORMED.items():
        upload(page, content)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator(".status.alarm")).to_contain_text(message)


def test_numbers_are_typed_in(visitor, paths):
    page = visitor.open("over-time", "Numbers")
    field = page.get_by_label("input, FP32 (batch, time, 2)")
    assert np.shape(json.loads(field.input_value())) == (8, 2)
    field.fill(json.dumps(X[0].tolist()))
    visitor.ask()
    expected, _ = Session(paths["over-time"])(X[:1])
    np.testing.assert_allclose(np.array(visitor.numbers())[:, 1:], expected[0], atol=1e-5)
    for text, message in [
        ("[1,", "not JSON"),
        ("[[1],[2]]", "the model takes"),
        ("[[1,2],[3]]", "differ in length: 2, and 1"),
        ('[["a", 2]]', '"a" is not a number'),
    ]:
        field.fill(text)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator(".status.alarm")).to_contain_text(message)


def test_plots_get_points(visitor, engines):
    page = visitor.open("mean")
    plots = {name: page.locator(f"#{name} path.area").first for name in ("latency", "batches")}
    engine = next(engine for engine in engines if engine.name == "mean")
    engine.submit({"input": X}).result()
    before = len(engine.stats().recent)
    for plot in plots.values():
        expect(plot).to_have_attribute("data-points", str(before))
    for _ in range(3):
        engine.submit({"input": X}).result()
    for plot in plots.values():
        expect(plot).to_have_attribute("data-points", str(len(engine.stats().recent)))
    assert len(engine.stats().recent) > before
    image = page.locator("#batches svg")
    image.press("ArrowLeft")
    expect(page.locator("#latency .readout")).to_contain_text("3 streams")


def test_the_token_is_typed_in(browser, engines):
    with (
        listening(create_app(engines, Settings(token="open sesame"))) as server,
        visit(browser, server) as visitor,
    ):
        page = visitor.page
        page.goto(server)
        expect(page.get_by_role("alert")).to_contain_text("The server demands a token")
        page.get_by_label("Bearer token").fill("open sesame")
        page.get_by_role("button", name="Use").click()
        page.get_by_role("heading", level=1).wait_for()
        expect(page.get_by_role("alert")).to_be_hidden()
        visitor.open("last", "Numbers")
        visitor.ask()
        stored = "[localStorage.length, sessionStorage.length, document.cookie]"
        assert page.evaluate(stored) == [0, 0, ""]


def test_a_server_that_is_gone_is_said_to_be(browser, server):
    with visit(browser, server) as visitor:
        page = visitor.open()
        page.route("**/page/live*", lambda route: route.abort())
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
        page.unroute("**/page/live*")
        expect(page.get_by_role("alert")).to_be_hidden()


def test_what_the_server_refuses_is_said(browser, server):
    with visit(browser, server) as visitor:
        page = visitor.open("last", "File")
        upload(page, npz(input=X[:1], lengths=np.array([9])))
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator(".status.alarm")).to_contain_text("lengths")


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (390, "dark"), (1280, "light")])
def test_it_fits_the_screen(browser, server, scheme, width):
    size = {"width": width, "height": 800}
    options = {"viewport": size, "color_scheme": scheme, "has_touch": width < 500}
    with visit(browser, server, **options) as visitor:
        page = visitor.open()
        draw(page, (0.4, 0.3), (0.5, 0.1), (0.5, 0.9))
        visitor.ask()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        named = (
            "e => [...e].filter(x => !x.labels?.length && !x.ariaLabel && !x.textContent).length"
        )
        assert page.locator("input, textarea, button").evaluate_all(named) == 0
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(245, 246, 248)") == (scheme == "light")
        assert visitor.complaints == []


def test_a_sample_is_tried_at_once(visitor, paths):
    page = visitor.open("over-time")
    with page.expect_request("**/infer") as first:
        page.get_by_role("button", name="Try a sample").click()
    page.locator(".status", has_text="A sample, made up. Answered in").wait_for()
    (sent,) = json.loads(first.value.post_data)["inputs"]
    x = np.array(sent["data"], np.float32).reshape(sent["shape"])
    expected, _ = Session(paths["over-time"])(x)
    assert x.shape == (1, 64, 2)
    np.testing.assert_allclose(np.array(visitor.numbers())[:, 1:], expected[0], atol=1e-5)


def test_an_old_answer_is_dim_until_the_new_one_is_there(visitor):
    page = visitor.open("last")
    sample = page.get_by_role("button", name="Try a sample")
    sample.click()
    answer = page.locator(".answer:not(.stale) .evolution")
    answer.wait_for()
    held = []

    def hold(route):
        held.append(route)

    page.route("**/infer", hold)
    sample.click()
    page.locator(".answer.stale[aria-busy] .evolution").wait_for()
    while not held:
        page.wait_for_timeout(10)
    page.route("**/infer", lambda route: route.continue_())
    held.pop().continue_()
    answer.wait_for()


def test_an_answer_that_is_no_number_is_said_to_be_none(visitor):
    page = visitor.open("digits", "File")
    x = np.zeros((1, 64, 1), np.float32)
    x[0, 10] = np.nan
    upload(page, npz(input=x))
    visitor.ask()
    expect(page.locator(".verdict")).to_contain_text("not a number")
    expect(page.locator(".levels .n").first).to_have_text("NaN")
    strip = page.locator(".strip").get_attribute("aria-label")
    assert strip.startswith("Likeliest answer: ")
    assert strip.endswith("none from 11")


def test_the_likeliest_answer_is_shown_over_time(visitor, paths):
    page = visitor.open("digits", "File")
    x = np.random.default_rng(0).random((1, 64, 1)).astype(np.float32)
    upload(page, npz(input=x))
    visitor.ask()
    session = Session(paths["digits"])
    best = [int(session(x[:, :t])[0].argmax()) for t in range(1, 65)]
    parts = page.locator(".strip span")
    changes = [best[0], *(b for a, b in itertools.pairwise(best) if a != b)]
    assert parts.all_inner_texts() == [str(each) for each in changes]
    widths = parts.evaluate_all("all => all.map(each => Number(each.style.flexGrow))")
    assert sum(widths) == 64


def test_how_to_use_it_from_elsewhere_works(visitor, server, paths):
    page = visitor.open("over-time")
    shell, python = page.get_by_role("region", name="Use it from elsewhere").locator("pre").all()
    command = shell.inner_text()
    assert command.startswith(f"curl {server}v2/models/over-time/versions/1/infer")
    answer = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=60)
    expected, _ = Session(paths["over-time"])(np.zeros((1, 8, 2), np.float32))
    output = json.loads(answer.stdout)["outputs"][0]
    np.testing.assert_allclose(output["data"], expected.ravel(), atol=1e-5)
    named = {}
    exec(python.inner_text(), named)
    np.testing.assert_allclose(named["output"], expected, atol=1e-5)


def test_the_graph_is_drawn(visitor):
    page = visitor.open("digits")
    boxes = page.get_by_role("list", name="From inputs to outputs").get_by_role("listitem")
    texts = boxes.all_inner_texts()
    assert "input" in texts[0]
    assert "1 → 64" in texts[1] or "1 → " in texts[1]
    assert "64 steps of statistics" in texts[1]
    assert "output" in texts[-1]


def test_requests_and_failures_are_plotted(visitor, server):
    page = visitor.open("softmax")
    visitor.page.get_by_role("button", name="Try a sample").click()
    page.locator(".status", has_text="Answered").wait_for()
    expect(page.locator("#rate path.area").first).to_have_attribute("data-points", "150")
    page.locator("#rate svg").press("ArrowLeft")
    for _ in range(150):
        if "half within" in page.locator("#rate .readout").inner_text():
            break
        page.locator("#rate svg").press("ArrowLeft")
    expect(page.locator("#times .readout")).to_contain_text("half within")


def test_a_wrong_token_is_told_from_none(browser, engines):
    with (
        listening(create_app(engines, Settings(token="open sesame"))) as server,
        visit(browser, server) as visitor,
    ):
        page = visitor.page
        page.goto(server)
        page.get_by_label("Bearer token").fill("open barley")
        page.get_by_role("button", name="Use").click()
        expect(page.get_by_role("alert")).to_contain_text("This is not the server's token")
