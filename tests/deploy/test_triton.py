"""The model repository for Triton's ONNX Runtime backend, without Triton."""

import itertools

import numpy as np
import onnx
import pytest

from bnlstm_deploy.exporting import export
from bnlstm_deploy.native import library_path
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.seal import KEY
from tests.deploy.commands import deploy, invoke
from tests.deploy.driver import Driver, read_config
from tests.models import randomize


@pytest.mark.parametrize(("name", "batch_axis"), [("layers", 1), ("classifier", 0)])
def test_implicit_state_gives_what_a_session_gives(exported, tmp_path, name, batch_axis):
    driver = Driver(deploy(exported / f"{name}.onnx", tmp_path / "repository"))
    session = Session(exported / f"{name}.onnx")
    generator = np.random.default_rng(0)
    states = {}
    for turn in range(12):
        # streams start at different turns, so those of a batch are at different steps
        alive = [stream for stream in range(5) if turn >= stream and generator.random() < 0.7]
        if not alive:
            continue
        time = int(generator.integers(1, 5))
        x = generator.standard_normal((len(alive), time, 3)).astype(np.float32)
        start = [stream for stream in alive if stream not in states]
        chunks = {stream: {"input": x[i : i + 1]} for i, stream in enumerate(alive)}
        results = driver.run(chunks, start=start)
        for stream, chunk in chunks.items():
            own = np.moveaxis(chunk["input"], 0, batch_axis)
            expected, states[stream] = session(own, state=states.get(stream))
            if expected.ndim == 3:
                expected = np.moveaxis(expected, batch_axis, 0)
            np.testing.assert_allclose(results[stream]["output"], expected, atol=1e-6)
    assert len({int(state.step[0]) for state in states.values()}) > 1


def test_states_are_paired_whatever_the_modules_are_called(tmp_path):
    """Triton sorts names; these modules sort otherwise by input than by output, or are prefixes."""
    import torch

    class Several(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.b = torch.nn.ModuleList([BNLSTM(3, 3, max_length=4) for _ in range(3)])
            self.b_ = BNLSTM(3, 3, max_length=4)

        def forward(self, input):
            for layer in (*self.b, self.b_):
                input, _ = layer(input)
            return input

    model = randomize(Several())
    export(model, tmp_path / "m.onnx", inputs=(torch.zeros(2, 2, 3),))
    driver = Driver(deploy(tmp_path / "m.onnx", tmp_path / "repository"))
    state = driver.config.sequence_batching.state
    assert len(state) == 12
    assert driver.pairs == {s.input_name: s.output_name for s in state}
    names = [n for s in state for n in (s.input_name, s.output_name)]
    assert not any(a != b and b.startswith(a) for a, b in itertools.product(names, names))
    x = np.random.default_rng(0).standard_normal((1, 9, 3)).astype(np.float32)
    expected, _ = Session(tmp_path / "m.onnx")(x.swapaxes(0, 1))
    first = driver.run({0: {"input": x[:, :4]}}, start=[0])[0]["output"]
    second = driver.run({0: {"input": x[:, 4:]}})[0]["output"]
    results = np.concatenate([first, second], axis=1).swapaxes(0, 1)
    np.testing.assert_allclose(results, expected, atol=1e-6)


def test_the_copy_is_checked_and_keeps_its_metadata(exported, tmp_path):
    folder = deploy(exported / "layers.onnx", tmp_path / "repository")
    proto = onnx.load(folder / "1" / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    original = onnx.load(exported / "layers.onnx")
    copied, kept = ({p.key: p.value for p in model.metadata_props} for model in (proto, original))
    assert copied.pop(KEY) != kept.pop(KEY)  # each has its own seal
    assert copied == kept
    operators = [node for node in proto.graph.node if node.op_type == "BNLSTM"]
    assert len(operators) == 2


def test_the_configuration_of_streams(exported, tmp_path):
    options = ("--max-sequences", "50", "--preferred-batch", "4", "--preferred-batch", "8")
    more = ("--max-batch", "16", "--max-wait", "0.01", "--sequence-idle", "2", "--threads", "1")
    folder = deploy(exported / "classifier.onnx", tmp_path / "r", *options, *more)
    config = read_config(folder)
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 16
    oldest = config.sequence_batching.oldest
    assert oldest.max_candidate_sequences == 50
    assert list(oldest.preferred_batch_size) == [4, 8]
    assert oldest.max_queue_delay_microseconds == 10_000
    assert config.sequence_batching.max_sequence_idle_microseconds == 2_000_000
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert len(list((folder / "initial_state").iterdir())) == 2  # the learned h and c
    # a warm-up's requests have no state, and the backend fails on that: the model would not load
    assert not config.model_warmup
    folder = deploy(exported / "layers.onnx", tmp_path / "r", "--strategy", "direct", "--lengths")
    config = read_config(folder)
    assert config.sequence_batching.WhichOneof("strategy_choice") == "direct"
    direct = config.sequence_batching.direct
    assert direct.max_queue_delay_microseconds == 2000
    assert direct.minimum_slot_utilization == 1  # at 0 Triton ignores the delay
    assert [value.name for value in config.input] == ["input", "lengths"]
    assert [s.input_name for s in config.sequence_batching.state] == sorted(Driver(folder).pairs)
    assert all(s.initial_state[0].zero_data for s in config.sequence_batching.state)


def test_whole_sequences(exported, tmp_path):
    folder = deploy(
        exported / "directions.onnx",
        tmp_path / "r",
        *("--lengths", "--instance", "gpu", "--instances", "2", "--preferred-batch", "4"),
    )
    driver = Driver(folder)
    config = driver.config
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    (group,) = config.instance_group
    assert (group.kind, group.count) == (group.KIND_GPU, 2)
    assert [warm_up.batch_size for warm_up in config.model_warmup] == [1, 4, 64]
    for warm_up in config.model_warmup:
        assert warm_up.inputs.keys() == {"input", "lengths"}
        assert all(n > 0 for value in warm_up.inputs.values() for n in value.dims)
    x = np.random.default_rng(0).standard_normal((3, 7, 3)).astype(np.float32)
    lengths = np.array([7, 2, 0])
    driver.states = {stream: {} for stream in range(3)}
    results = driver.run(
        {i: {"input": x[i : i + 1], "lengths": lengths[i : i + 1, None]} for i in range(3)}
    )
    expected, state = Session(exported / "directions.onnx")(x, lengths=lengths)
    for i, result in results.items():
        np.testing.assert_allclose(result["output"], expected[i : i + 1], atol=1e-6)
        np.testing.assert_allclose(result["h_n"][0], state.h[:, i], atol=1e-6)


def test_half_precision_avoids_the_optimizer_that_crashes(tmp_path):
    import torch

    model = randomize(BNLSTM(3, 8, max_length=4))
    export(model, tmp_path / "half.onnx", dtype=torch.float16)
    assert read_config(deploy(tmp_path / "half.onnx", tmp_path / "r")).optimization.graph.level == 1


def test_the_native_kernel_is_in_the_repository_and_runs(exported, tmp_path):
    """The operator's copy here has the batch first, and the kernel gives the same bits in any."""
    for native in (True, False):
        options = () if native else ("--no-native",)
        folder = deploy(exported / "layers.onnx", tmp_path / str(native), *options)
        library = folder / "1" / library_path().name
        driver = Driver(folder)
        files = list(driver.config.model_operations.op_library_filename)
        assert files == ([str(library)] if native else [])
        assert library.exists() is native
        x = np.random.default_rng(0).standard_normal((3, 40, 3)).astype(np.float32)
        chunks = [
            {i: {"input": x[i : i + 1, t]} for i in range(3)} for t in (slice(9), slice(9, 40))
        ]
        results = [driver.run(chunks[0], start=range(3)), driver.run(chunks[1])]
        result = np.concatenate([[r[i]["output"][0] for i in range(3)] for r in results], axis=1)
        kernel, _ = Session(exported / "layers.onnx")(x.swapaxes(0, 1))
        assert np.array_equal(result, kernel.swapaxes(0, 1)) is native
        body, _ = Session(exported / "layers.onnx", native=False)(x.swapaxes(0, 1))
        np.testing.assert_allclose(result, body.swapaxes(0, 1), atol=1e-6)
    assert (tmp_path / "True" / "layers" / "1" / library_path().name).read_bytes() == (
        library_path().read_bytes()
    )


def test_where_the_server_finds_the_native_kernel(exported, tmp_path):
    path = "/models/layers/1/libbnlstm.so"
    options = ("--native-library", path)
    folder = deploy(exported / "layers.onnx", tmp_path / "r", *options)
    assert list(read_config(folder).model_operations.op_library_filename) == [path]
    assert (folder / "1" / library_path().name).exists()


@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_native_kernel_for_gpus(tmp_path, backend, dtype):
    import torch

    model = randomize(BNLSTM(3, 8, max_length=4))
    export(model, tmp_path / "m.onnx", target="cuda", dtype=getattr(torch, dtype))
    options = ("--backend", backend, "--instance", "gpu")
    folder = deploy(tmp_path / "m.onnx", tmp_path / "r", *options)
    assert (folder / "1" / library_path().name).read_bytes() == library_path().read_bytes()


def test_what_runs_the_function_body_has_no_native_kernel_and_says_why(exported, tmp_path):
    import torch

    model = randomize(BNLSTM(3, 8, max_length=4))
    export(model, tmp_path / "half.onnx", dtype=torch.float16)
    export(model, tmp_path / "gpu.onnx", target="cuda")
    export(model, tmp_path / "double.onnx", target="cuda", dtype=torch.float64)
    for path, options, reason in (
        (exported / "layers.onnx", ("--no-native",), "native=False"),
        (exported / "layers.onnx", ("--instance", "gpu"), "it with --target cuda"),
        (tmp_path / "gpu.onnx", ("--instance", "gpu", "--no-native"), "native=False"),
        (tmp_path / "double.onnx", ("--instance", "gpu"), "not float64"),
        (tmp_path / "half.onnx", (), "float16"),
    ):
        command = ("triton", path, "-o", tmp_path / "r", "--force", "--backend", "python")
        output = " ".join(invoke(*command, *options).output.split())
        assert "function body: " in output
        assert reason in output
        files = (tmp_path / "r" / path.stem / "1").iterdir()
        assert sorted(file.name for file in files) == ["model.onnx", "model.py"]
