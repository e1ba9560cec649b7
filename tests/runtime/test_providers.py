"""Providers and their options: names, translation, text, and what is refused."""

from types import SimpleNamespace

import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.runtime import providers
from bnlstm_deploy.runtime.provider_options import CPU, CUDA, TENSORRT, translate
from bnlstm_deploy.runtime.providers import check_active, check_placed, parse_providers, resolve


@pytest.fixture
def gpu(monkeypatch):
    """As with onnxruntime-gpu installed."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])


@pytest.mark.parametrize(
    ("asked", "resolved"),
    [
        ("cpu", [(CPU, {})]),
        ("cuda", [(CUDA, {"use_tf32": 0})]),
        (("cuda", {"tf32": True}), [(CUDA, {"use_tf32": 1})]),
        (("cuda", {"tf32": "false"}), [(CUDA, {"use_tf32": 0})]),
        (
            ("cuda", {"device_id": "1", "memory_limit": "2GB", "cudnn_search": "heuristic"}),
            [
                (
                    CUDA,
                    {
                        "use_tf32": 0,
                        "device_id": 1,
                        "gpu_mem_limit": 2 * 10**9,
                        "cudnn_conv_algo_search": "HEURISTIC",
                    },
                )
            ],
        ),
        (("cuda", {"prefer_nhwc": 1}), [(CUDA, {"use_tf32": 0, "prefer_nhwc": 1})]),
        (
            ("tensorrt", {"device_id": 1, "engine_cache": "cache", "fp16": True}),
            [
                (
                    TENSORRT,
                    {
                        "device_id": 1,
                        "trt_engine_cache_enable": 1,
                        "trt_engine_cache_path": "cache",
                        "trt_fp16_enable": 1,
                    },
                ),
                (CUDA, {"use_tf32": 0, "device_id": 1}),
            ],
        ),
        (
            ("tensorrt", {"memory_limit": 1024, "trt_dla_core": 1}),
            [
                (TENSORRT, {"trt_max_workspace_size": 1024, "trt_dla_core": 1}),
                (CUDA, {"use_tf32": 0}),
            ],
        ),
    ],
)
def test_options_are_translated(gpu, asked, resolved):
    assert resolve((asked,)) == resolved


def test_what_tensorrt_leaves_goes_where_it_is_said_to_go(gpu):
    names = [name for name, _ in resolve(("tensorrt", "cpu"))]
    assert names == [TENSORRT, CUDA, CPU]
    asked = ("tensorrt", ("cuda", {"tf32": True}))
    assert resolve(asked)[1:] == [(CUDA, {"use_tf32": 1})]


def test_options_of_other_providers_are_left_alone():
    assert translate("DmlExecutionProvider", {"anything": 1}) == {"anything": 1}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("cuda", {"color": 1}), "no option 'color'; it has \\['device_id', 'memory_limit'"),
        (("cpu", {"device_id": 1}), "CPUExecutionProvider has no option 'device_id'"),
        (("tensorrt", {"tf32": False}), "NVIDIA_TF32_OVERRIDE=0"),
        (("cuda", {"device_id": "one"}), "device_id of .* is 'one'; pass a whole number"),
        (("cuda", {"device_id": -1}), "pass a whole number"),
        (("cuda", {"memory_limit": "2 apples"}), "pass bytes, or a text such as '2GB'"),
        (("cuda", {"memory_limit": 0}), "pass bytes"),
        (("cuda", {"tf32": "perhaps"}), "pass true or false"),
        (("cuda", {"cudnn_search": "best"}), "pass one of \\('default'"),
        (("cuda", {"enable_cuda_graph": 1}), "Use bnlstm_deploy.runtime.Buckets"),
        (("tensorrt", {"trt_cuda_graph_enable": 1}), "Use bnlstm_deploy.runtime.Buckets"),
    ],
)
def test_wrong_options_are_clear_errors(gpu, asked, message):
    with pytest.raises(RuntimeSessionError, match=message):
        resolve((asked,))


@pytest.mark.parametrize("name", ["cpu", "tensorrt"])
def test_only_cuda_captures(gpu, name):
    assert resolve(("cuda",), capture=True) == [(CUDA, {"use_tf32": 0, "enable_cuda_graph": 1})]
    with pytest.raises(RuntimeSessionError, match=r"pass providers=\('cuda',\)"):
        resolve((name,), capture=True)


@given(st.integers(1, 2**40), st.sampled_from(["", "B", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_sizes_have_units(number, unit):
    power = "KMG".find(unit[:1]) + 1 if unit[:1] in "KMG" and unit else 0
    base = 1024 if "i" in unit else 1000
    limit = translate(CUDA, {"memory_limit": f"{number}{unit}"})["gpu_mem_limit"]
    assert limit == pytest.approx(number * base**power)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("cpu", ["cpu"]),
        (" cuda , cpu,", ["cuda", "cpu"]),
        (
            "cuda:device_id=1:memory_limit=2GB,cpu",
            [("cuda", {"device_id": "1", "memory_limit": "2GB"}), "cpu"],
        ),
        ("", []),
    ],
)
def test_text_has_names_and_options(text, parsed):
    assert parse_providers(text) == parsed


@pytest.mark.parametrize("text", ["cuda:device_id", "cuda:=1", "cuda:device_id="])
def test_text_without_a_value_is_a_clear_error(text):
    with pytest.raises(RuntimeSessionError, match="write it as cuda:device_id=1"):
        parse_providers(text)


def test_a_fallback_is_explained(monkeypatch):
    monkeypatch.setattr(providers, "explain_missing_cuda", lambda: "The GPU is on holiday.")
    session = SimpleNamespace(get_providers=lambda: [CPU])
    for name in (CUDA, TENSORRT):
        with pytest.raises(RuntimeSessionError, match=f"start {name}.* The GPU is on holiday. Or"):
            check_active(session, [name])


def placed(**nodes):
    part = SimpleNamespace(
        ep_name=CPU, get_nodes=lambda: [SimpleNamespace(op_type=op) for op in nodes]
    )
    other = SimpleNamespace(ep_name=CUDA, get_nodes=lambda: [SimpleNamespace(op_type="Scan")])
    return SimpleNamespace(
        get_provider_graph_assignment_info=lambda: [part, other],
        get_providers=lambda: [CUDA, CPU],
    )


def test_nodes_on_the_cpu_are_named():
    check_placed(placed(Concat=1, Squeeze=1))  # arithmetic on shapes, which is there on purpose
    with pytest.raises(RuntimeSessionError, match=r"1 Clip, 1 LSTM; export for the target cuda"):
        check_placed(placed(Concat=1, LSTM=1, Clip=1))


def test_an_onnxruntime_that_does_not_tell_is_a_clear_error():
    with pytest.raises(RuntimeSessionError, match="does not tell where nodes are placed; upgrade"):
        check_placed(SimpleNamespace())
