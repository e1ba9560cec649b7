"""The native kernel on the unmodified CUDA provider: numbers, launches, capture, what goes wrong.

The stub driver hands every launch to Triton's interpreter. Kernels of ONNX Runtime compute nothing
under the stubs, so the other nodes of a file are put on the CPU where its numbers are compared, and
a node stands alone where runs are captured.
"""

import ctypes
import importlib.util
import logging
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnlstm_deploy.exporting import export
from bnlstm_deploy.native import library_path
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.kernel import VARIABLE
from bnlstm_deploy.serve.engine import Engine
from tests.cuda_stub import counts
from tests.cuda_stub.environment import require_stubs
from tests.models import randomize
from tests.native.cuda.products import bfloat16_products  # noqa: F401 (a fixture)
from tests.native.draws import inputs
from tests.native.reference import INPUTS, OUTPUTS, Node, compute
from tests.native.test_contract import assert_right

require_stubs()
if importlib.util.find_spec("triton") is None:
    pytest.skip("needs Triton: make test-cuda-stub", allow_module_level=True)

from tests.cuda_stub.interpreter import computing  # noqa: E402 (it imports Triton)

CUDA = "CUDAExecutionProvider"
LAUNCHES = ("step", "sequence")
HOST = "host"
"""What nodes are annotated with that ONNX Runtime is to put on the CPU."""

# numpy warns of what a GPU computes in silence: infinities, of which the functions have limits.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def node(arrays, launches, outputs=OUTPUTS, constant=()):
    options = {"bnlstm.provider": "cuda", "bnlstm.launches": launches}
    names = frozenset(constant) & arrays.keys()
    return Node(arrays, names, outputs, options=options, provider=CUDA)


@contextmanager
def driver(version=13000, capability=90, shared=227 << 10, load_error=0, launch_error=0):
    """Have the driver and the GPU be others for the time of the block."""
    stub = ctypes.CDLL("libcuda.so.1")
    stub.stub_set_driver(version, capability, shared, load_error, launch_error)
    try:
        yield
    finally:
        stub.stub_set_driver(13000, 90, 227 << 10, 0, 0)


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    arrays = {
        "X": random.standard_normal((5, 3, 4)),
        "weight_ih": random.standard_normal((48, 4)),
        "weight_hh": random.standard_normal((48, 12)) / 12**0.5,
        "bias": random.standard_normal((3, 48)),
        "initial_h": random.uniform(-1, 1, (3, 12)),
        "initial_c": random.standard_normal((3, 12)),
        "hidden_scale": 1 + 0.5 * random.standard_normal((3, 48)),
        "cell_scale": 1 + 0.5 * random.standard_normal((3, 12)),
        "cell_shift": random.standard_normal((3, 12)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    arrays["lengths"] = np.array([5, 2, 0])
    arrays["start_step"] = np.array([0, 1, 7])
    return arrays


@settings(max_examples=25)
@given(st.data(), st.sampled_from(LAUNCHES))
def test_all_of_the_contract(data, launches):
    arrays = data.draw(inputs(np.float32))
    constant = data.draw(st.sampled_from([(), INPUTS[1:4], INPUTS[1:]]))
    outputs = data.draw(st.sampled_from([OUTPUTS, ("Y",), ("Y_h",), ("Y_h", "Y_c")]))
    with computing():
        assert_right(arrays, node(arrays, launches, outputs, constant).run())


def on_host(path):
    """The file with all nodes annotated but those of the operator."""
    model = onnx.load(path)
    for one in model.graph.node:
        if one.op_type != "BNLSTM":
            one.metadata_props.add(key="layer_ann", value=HOST)
    return model.SerializeToString()


@pytest.mark.parametrize("launches", LAUNCHES)
@pytest.mark.parametrize("given", ["", "lengths, start_step, state"])
@pytest.mark.parametrize(
    ("dtype", "layers", "directions"),
    [
        (torch.float32, 2, 1),
        (torch.float32, 2, 2),
        (torch.float16, 2, 1),
        (torch.float16, 1, 2),
        (torch.bfloat16, 2, 1),
    ],
)
@pytest.mark.usefixtures("bfloat16_products")
def test_an_exported_file_computes_what_the_model_computes(
    dtype, layers, directions, given, launches, tmp_path
):
    model = randomize(BNLSTM(6, 20, layers, bidirectional=directions == 2, max_length=4))
    path = tmp_path / "model.onnx"
    export(model, path, dtype=dtype, target="cuda")
    random = np.random.default_rng(1)
    feeds = {"input": random.standard_normal((7, 5, 6)).astype(np.float32)}
    arguments = {}
    if "lengths" in given:
        feeds["lengths"] = np.array([7, 1, 0, 5, 7])
        arguments["lengths"] = torch.from_numpy(feeds["lengths"])
    if "state" in given:
        shape = (layers * directions, 5, 20)
        feeds["initial_h"], feeds["initial_c"] = (
            random.uniform(-1, 1, shape).astype(np.float32) for _ in range(2)
        )
        arguments["state"] = tuple(torch.from_numpy(feeds[f"initial_{n}"]).double() for n in "hc")
        if directions == 1:
            feeds["start_step"] = np.array([0, 1, 2, 9, 2**40])
            arguments["step"] = torch.from_numpy(feeds["start_step"])

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.layer_assignment_settings", f"cpu(={HOST})")
    for key, value in (("bnlstm.provider", "cuda"), ("bnlstm.launches", launches)):
        options.add_session_config_entry(key, value)
    options.register_custom_ops_library(str(library_path()))
    providers = [CUDA, "CPUExecutionProvider"]
    session = ort.InferenceSession(on_host(path), options, providers=providers)
    counts.reset()
    with computing() as made:
        names = ["output", "h_n", "c_n"]
        results = session.run(names, feeds)
    assert len(made) == layers * directions * (2 if launches == "sequence" else 2 + 7)
    assert counts.read().kernels.total() == len(made)  # and so all kernels that ran computed

    def true(precise):
        x = torch.from_numpy(feeds["input"]).to(precise)
        given_ = dict(arguments)
        if "state" in given_:
            given_["state"] = tuple(s.to(precise) for s in given_["state"])
        with torch.no_grad():
            output, (h, c) = model.to(precise)(x, **given_)
        return [np.asarray(t.double()) for t in (output, h, c)]

    truth, own = true(torch.float64), true(torch.float32)
    for result, expected, float32 in zip(results, truth, own, strict=True):
        error = np.abs(result - expected).max()
        if dtype == torch.float32:
            scale = max(np.abs(expected).max(), 1)
            assert error <= 1.5 * np.abs(float32 - expected).max() + 2**-22 * scale
        else:
            assert error <= 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("launches", LAUNCHES)
def test_captured_and_replayed_with_other_states(arrays, launches):
    shapes = {"Y": (5, 3, 12), "Y_h": (3, 12), "Y_c": (3, 12)}
    one = node(arrays, launches, constant=INPUTS[1:4])
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for key, value in one.options.items():
        options.add_session_config_entry(key, value)
    options.register_custom_ops_library(str(library_path()))
    providers = [(CUDA, {"enable_cuda_graph": "1"})]
    session = ort.InferenceSession(one.model().SerializeToString(), options, providers)
    binding = session.io_binding()
    free = {n: a for n, a in arrays.items() if n not in one.constant}
    values = {n: ort.OrtValue.ortvalue_from_numpy(a, "cuda", 0) for n, a in free.items()}
    made = {
        name: ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
        for name, shape in shapes.items()
    }
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name, value in made.items():
        binding.bind_ortvalue_output(name, value)
    number = 2 if launches == "sequence" else 2 + 5
    with computing():
        session.run_with_iobinding(binding)
        counts.reset()
        random = np.random.default_rng(2)
        for _ in range(3):
            arrays = arrays | {
                "X": random.standard_normal((5, 3, 4)).astype(np.float32),
                "initial_h": random.uniform(-1, 1, (3, 12)).astype(np.float32),
                "initial_c": random.standard_normal((3, 12)).astype(np.float32),
                "lengths": random.integers(0, 6, 3),
                "start_step": random.integers(0, 4, 3),
            }
            for name, value in values.items():
                value.update_inplace(arrays[name])
            counts.reset()
            session.run_with_iobinding(binding)
            counted = counts.read()
            assert counted.graphs["launch"] == 1
            assert not counted.kernels
            assert not counted.allocations
            assert not counted.errors
            if counted.graphs["capture"]:
                assert counted.captured["kernels"].total() == number
                assert counted.captured.keys() == {"kernels"}
            assert_right(arrays, {name: value.numpy() for name, value in made.items()})
    assert "capture" not in counted.graphs


def test_sequence_is_chosen_where_it_fits_and_one_wave_is_enough(arrays):
    def kernels(n, h):
        random = np.random.default_rng(0)
        of = {
            "X": (1, n, 1),
            "weight_ih": (4 * h, 1),
            "weight_hh": (4 * h, h),
            "bias": (1, 4 * h),
            "initial_h": (1, h),
            "initial_c": (1, h),
        }
        made = {
            name: random.standard_normal(shape).astype(np.float32) for name, shape in of.items()
        }
        counts.reset()
        node(made, "").run()  # computed by nobody
        return {*counts.read().kernels} - {"input_part"}

    assert kernels(1, 64) == {"sequence"}
    assert kernels(16 * 132, 64) == {"sequence"}
    assert kernels(16 * 132 + 1, 64) == {"begin", "step"}
    assert kernels(1, 68) == {"begin", "step"}
    assert kernels(1, 63) == {"begin", "step"}  # of rows that are not aligned


def test_addresses_that_are_not_aligned(arrays):
    """Such as of a tensor that another library made a part of."""
    session = node(arrays, "", ("Y",), INPUTS[1:]).session()
    binding = session.io_binding()
    memory = ort.OrtValue.ortvalue_from_numpy(np.zeros(100, np.float32), "cuda", 0)
    place = memory.data_ptr() + 4
    ctypes.memmove(place, arrays["X"].ctypes.data, arrays["X"].nbytes)
    binding.bind_input("X", "cuda", 0, np.float32, arrays["X"].shape, place)
    y = ort.OrtValue.ortvalue_from_shape_and_type((5, 3, 12), np.float32, "cuda", 0)
    binding.bind_ortvalue_output("Y", y)
    with computing() as made:
        session.run_with_iobinding(binding)
        result = y.numpy()
    assert {launch.built.feature for launch in made} == {1}
    assert_right(arrays, {"Y": result})


def test_several_sessions_and_threads(arrays):
    sessions = [
        (n, node(arrays, n, constant=INPUTS[1:4]).session()) for n in ("step", "sequence", "")
    ]
    random = np.random.default_rng(3)
    free = {n: a for n, a in arrays.items() if n not in INPUTS[1:4]}
    calls = []
    for number in range(12):
        x = random.standard_normal((number % 4 + 1, 3, 4)).astype(np.float32)
        calls.append((sessions[number % 3][1], free | {"X": x}))
    with computing(), ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda call: call[0].run(list(OUTPUTS), call[1]), calls))
    for (_, feeds), result in zip(calls, results, strict=True):
        assert_right(arrays | feeds, dict(zip(OUTPUTS, result, strict=True)))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.onnx"
    export(randomize(BNLSTM(3, 12, max_length=4)), path, target="cuda")
    return path


def opened(file, *, demanded=False, **other):
    """Open a file in a process of its own, whose driver is another: it loads kernels once."""
    answers = {"version": 13000, "capability": 90, "shared": 227 << 10, "load_error": 0} | other
    program = (
        "import ctypes\n"
        "from bnlstm_deploy.runtime import Session\n"
        "from tests.cuda_stub import counts\n"
        f"ctypes.CDLL('libcuda.so.1').stub_set_driver(*{[*answers.values()]}, 0)\n"
        f"print(Session({str(file)!r}, providers=('cuda', 'cpu')).native)\n"
        "print(dict(counts.read().libraries))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | ({VARIABLE: "cuda"} if demanded else {}),
        check=False,
    )


WRONG = [
    ({"version": 11080}, r"is of CUDA 11.8, and the kernels need 12.0 or newer; update it"),
    ({"capability": 70}, r"compute capability 7.0, and the kernels need 7.5; use another GPU"),
    ({"capability": 72}, r"compute capability 7.2, and the kernels need 7.5"),
    ({"load_error": 200}, r"image is invalid .error 200 of CUDA.: the kernels .* update it"),
]


@pytest.mark.parametrize(("other", "message"), WRONG)
def test_what_cannot_run_it_runs_the_function_body_and_says_so(file, other, message):
    done = opened(file, **other)
    assert done.returncode == 0, done.stderr
    kernel = done.stdout.splitlines()[0]
    assert re.match(rf"function body: .*{message}.*BNLSTM_DEPLOY_NATIVE=0", kernel)
    assert "the function body runs in place of the native kernel: " in done.stderr


@pytest.mark.parametrize(("other", "message"), WRONG)
def test_what_cannot_run_it_is_an_error_where_it_is_demanded(file, other, message):
    done = opened(file, demanded=True, **other)
    assert re.search(rf"RuntimeSessionError: BNLSTM_DEPLOY_NATIVE=cuda: .*{message}.*", done.stderr)


@pytest.mark.parametrize(
    ("capability", "code"),
    [(75, "cubin"), (80, "cubin"), (87, "cubin"), (90, "cubin"), (103, "PTX"), (121, "PTX")],
)
def test_the_code_that_a_gpu_gets(file, capability, code):
    done = opened(file, capability=capability, shared=99 << 10 if capability == 121 else 163 << 10)
    kernel, libraries = done.stdout.splitlines()[:2]
    assert kernel == "native kernel (cuda)"
    assert re.fullmatch(rf"{{'{code}': \d+}}", libraries)


def test_bfloat16_needs_a_newer_gpu_than_float16(tmp_path):
    path = tmp_path / "model.onnx"
    export(randomize(BNLSTM(3, 12, max_length=4)), path, target="cuda", dtype=torch.bfloat16)
    done = opened(path, demanded=True, capability=75)
    assert "need 8.0 for bfloat16; use another GPU or float16" in done.stderr


def test_a_server_s_engine_runs_it_through_bindings(file):
    engine = Engine(file, providers=("cuda",))
    engine.warm_up()
    x = np.zeros((4, 3, 3), np.float32)
    engine.submit({"input": x}).result()
    counts.reset()
    for _ in range(3):
        assert engine.submit({"input": x}).result()["output"].shape == (4, 3, 12)
    counted = counts.read()
    assert counted.kernels["sequence"] == 3
    assert not counted.allocations
    assert not counted.errors


def test_an_input_that_became_a_constant_is_no_wrong_number(tmp_path, caplog):
    """Nodes on the CPU read lengths, too; a file for CUDA has one node that reads them."""
    for target in ("cpu", "cuda"):
        path = tmp_path / f"{target}.onnx"
        export(randomize(BNLSTM(3, 12, max_length=4)), path, target=target)
        native = Session(path, providers=("cuda", "cpu")).native
        assert bool(native) == (target == "cuda")
    assert "ONNX Runtime has made lengths a constant" in caplog.text
    assert "export the file with target='cuda'" in caplog.text


def test_weights_in_fewer_bits_run_the_function_body(tmp_path):
    path = tmp_path / "model.onnx"
    export(randomize(BNLSTM(3, 12, max_length=4)), path, target="cuda", weights="int8")
    native = Session(path, providers=("cuda", "cpu")).native
    assert str(native) == "function body: the native kernel for CUDA takes no weights in int8"


def test_float64_runs_the_function_body(tmp_path, caplog):
    path = tmp_path / "model.onnx"
    export(randomize(BNLSTM(3, 12, max_length=4)), path, dtype=torch.float64)
    with caplog.at_level(logging.WARNING):
        session = Session(path, providers=("cuda", "cpu"))
    reason = "the native kernel for CUDA is for float32, float16 and bfloat16, not float64"
    assert str(session.native) == f"function body: {reason}"
    assert reason in caplog.text


def test_a_launch_that_fails_is_an_error_and_the_session_lives(arrays):
    session = node(arrays, "step").session()
    with (
        driver(launch_error=719),
        pytest.raises(Exception, match=r"BNLSTM: input_part: an error of the stub \(error 719"),
    ):
        session.run(None, arrays)
    with computing():
        assert_right(arrays, dict(zip(OUTPUTS, session.run(None, arrays), strict=True)))


def test_a_program_that_says_nothing_gets_both_operators(arrays):
    """Such as Triton's: it can name the library, and no entry of the configuration."""
    for provider in (CUDA, "CPUExecutionProvider"):
        one = Node(arrays, provider=provider)
        counts.reset()
        with computing() as made:
            assert_right(arrays, one.run())
        assert bool(made) == (provider == CUDA)


def test_no_memory_left_is_an_error_and_the_session_lives(arrays):
    """Scratch memory is ONNX Runtime's; here it has none for the input's part of many streams."""
    session = node(arrays, "step", ("Y_h",)).session()
    many = {n: a for n, a in arrays.items() if n not in ("lengths", "start_step")}
    many["X"] = np.zeros((500, 1000, 4), np.float32)
    many["initial_h"], many["initial_c"] = arrays["initial_h"][:1], arrays["initial_c"][:1]
    many |= {"lengths": np.array([500]), "start_step": np.array([0])}
    stub = counts.runtime()
    stub.stub_set_memory(ctypes.c_size_t(32 << 20))
    try:
        with pytest.raises(Exception, match=r"BFCArena|memory|allocat"):
            session.run(None, many)
    finally:
        stub.stub_set_memory(ctypes.c_size_t(2**64 - 1))
    with computing():
        assert_right(arrays, {"Y_h": session.run(None, arrays)[0]})


@pytest.mark.parametrize("size", ["T", "N", "H", "D"])
def test_nothing_of_something(arrays, size):
    arrays = {
        name: array for name, array in arrays.items() if name not in ("lengths", "start_step")
    }
    if size == "T":
        arrays["X"] = arrays["X"][:0]
    elif size == "N":
        arrays["X"] = arrays["X"][:, :0]
        arrays["initial_h"], arrays["initial_c"] = arrays["initial_h"][:1], arrays["initial_c"][:1]
    elif size == "D":
        arrays["X"], arrays["weight_ih"] = arrays["X"][..., :0], arrays["weight_ih"][:, :0]
    else:
        arrays = {n: a if n in ("X", "weight_ih") else a[:, :0] for n, a in arrays.items()}
        arrays["weight_ih"], arrays["weight_hh"] = (
            arrays["weight_ih"][:0],
            np.zeros((0, 0), np.float32),
        )
    for launches in LAUNCHES:
        with computing():
            results = node(arrays, launches).run()
        for name, expected in compute(arrays).items():
            assert results[name].shape == expected.shape
        assert_right(arrays, results)


def test_a_shape_that_is_wrong_is_named(arrays):
    arrays["weight_hh"] = arrays["weight_hh"][:, :5]
    with pytest.raises(Exception, match=r"BNLSTM: weight_ih has the shape \(48, 4\); it must be"):
        node(arrays, "").run()
