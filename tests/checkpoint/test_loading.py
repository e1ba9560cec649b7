"""Checkpoints of every known family, against what their code computes."""

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from bnlstm_deploy.checkpoint import import_checkpoint, load_checkpoint, shipped_layouts
from bnlstm_deploy.checkpoint.loading import recognize
from bnlstm_deploy.checkpoint.parse import parse_layout
from bnlstm_deploy.errors import CheckpointError, LayoutError
from bnlstm_deploy.folding import fold
from bnlstm_deploy.nn import BNLSTMModel
from tests.checkpoint.sources import SOURCES

TORCH_FAMILIES = ("jihunchoi", "hellozgy", "mrubio", "houlu")


def to_torch(value):
    if isinstance(value, dict):
        return {key: to_torch(inner) for key, inner in value.items()}
    return torch.from_numpy(np.asarray(value)) if isinstance(value, np.ndarray) else value


def write(folder, source):
    """Write a source's checkpoint in the container that its code would use."""
    if source.name.startswith(TORCH_FAMILIES):
        path = folder / "checkpoint.pt"
        torch.save(to_torch(source.tensors), path)
    else:
        path = folder / "checkpoint.npz"
        np.savez(path, **source.tensors)
    return path


def run(model, x, state=None, lengths=None):
    with torch.no_grad():
        output, (h, c) = model.double()(torch.from_numpy(x), state, lengths=lengths)
    return output.numpy(), h.numpy(), c.numpy()


def assert_same(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


LAYOUT_OF = {"jihunchoi_2017": "jihunchoi-2017", "batchnorm_lstm_pypi": "batchnorm-lstm"}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", SOURCES)
def test_every_family_is_recognized_and_computes_what_its_code_does(name, seed, tmp_path):
    source = SOURCES[name](seed)
    imported = import_checkpoint(write(tmp_path, source), batch_first=True)
    expected = next((v for k, v in LAYOUT_OF.items() if name.startswith(k)), name.split("_")[0])
    assert imported.layout.name == ("houlu-shared" if name == "houlu_shared" else expected)
    assert_same(run(imported.model, source.x), source.run(source.x))
    x = source.x.swapaxes(0, 1)
    initial = imported.model.initial_state(x.shape[1])
    state = tuple(tensor.detach().numpy() for tensor in initial)
    output, (h, c) = fold(imported.model).run(x, state)
    assert_same((output.swapaxes(0, 1), h, c), source.run(source.x))


@pytest.mark.parametrize("name", SOURCES)
def test_lengths_and_given_states(name, tmp_path):
    source = SOURCES[name](0)
    model = import_checkpoint(write(tmp_path, source), batch_first=True).model
    rows = (model.num_layers * model.num_directions, len(source.x), model.hidden_size)
    generator = np.random.default_rng(1)
    h, c = generator.uniform(-1, 1, rows), generator.standard_normal(rows)
    lengths = np.array([source.x.shape[1], 4, 1])
    if name == "musyoku":  # a state that is given ends its special first step; see its layout
        output, h_n, c_n = run(model, source.x, None, torch.from_numpy(lengths))
        expected = source.run(source.x, lengths=lengths)
    else:
        state = (torch.from_numpy(h), torch.from_numpy(c))
        output, h_n, c_n = run(model, source.x, state, torch.from_numpy(lengths))
        expected = source.run(source.x, h, c, lengths)
    for stream, length in enumerate(lengths):
        assert_same([output[stream, :length]], [expected[0][stream, :length]])
    assert_same((h_n, c_n), expected[1:])


def test_every_shipped_layout_has_a_source():
    recognized = set()
    for make in SOURCES.values():
        tensors = to_torch(make(0).tensors)
        recognized.add(recognize(tensors.get("model", tensors)).layout.name)
    assert recognized | {"bnlstm-deploy"} == set(shipped_layouts())


def test_a_state_dict_of_torch_is_a_model_that_normalizes_nothing(tmp_path):
    lstm = nn.LSTM(3, 4, 2, bidirectional=True)
    torch.save({"module." + k: v for k, v in lstm.state_dict().items()}, tmp_path / "lstm.pt")
    model = load_checkpoint(tmp_path / "lstm.pt")
    assert model.normalize == ()
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(model(x)[0], lstm(x)[0])


def test_nothing_is_rounded(tmp_path):
    """A forget bias added at run time needs more bits than float32 has; copies do not."""
    sonnet = import_checkpoint(write(tmp_path, SOURCES["sonnet_h"](0))).model
    assert sonnet.weight_ih_l0.dtype == torch.float64
    copied = import_checkpoint(write(tmp_path, SOURCES["jihunchoi"](0))).model
    assert copied.weight_ih_l0.dtype == torch.float32


def test_a_row_at_its_initial_values_counts_as_unvisited(tmp_path):
    source = SOURCES["jihunchoi"](0)
    for key, value in source.tensors.items():
        if key.endswith("_4"):
            value[...] = 1 if "var" in key else 0
    model = import_checkpoint(write(tmp_path, source)).model
    assert (model.hidden_norm_l0.num_batches_tracked == 0).tolist() == [False] * 4 + [True]


@pytest.fixture
def wrapped(tmp_path):
    """A checkpoint with the prefix `rnn.`, and a Linear `fc` beside."""
    return write(tmp_path, SOURCES["jihunchoi_wrapped"](0))


def test_the_prefix_and_what_is_left_over_are_reported(wrapped):
    notes = "\n".join(import_checkpoint(wrapped).notes)
    assert "prefix 'rnn.'" in notes
    assert "fc.weight, fc.bias" in notes
    assert "head 'last'" in notes


@pytest.mark.parametrize("pooling", ["last", "every"])
def test_a_linear_head_is_kept(wrapped, pooling):
    imported = import_checkpoint(wrapped, head=pooling)
    tensors = imported.tensors
    assert isinstance(imported.model, BNLSTMModel)
    assert "left over" not in "\n".join(imported.notes)
    x = torch.randn(4, 2, 3)
    output, (h, _) = imported.model.rnn(x)
    read = h[-1] if pooling == "last" else output
    expected = read @ tensors["fc.weight"].T + tensors["fc.bias"]
    torch.testing.assert_close(imported.model(x)[0], expected)


def test_containers(tmp_path):
    source = SOURCES["jihunchoi"](0)
    tensors = to_torch(source.tensors)
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", **source.tensors)
    nested = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    torch.save(nested | {"state_dict": tensors, "ema": tensors}, tmp_path / "c.ckpt")
    torch.save(
        {"checkpoint": {"net": {f"module.{k}": v for k, v in tensors.items()}}}, tmp_path / "d.pth"
    )
    expected = load_checkpoint(tmp_path / "a.safetensors").state_dict()
    for name in ("b.npz", "c.ckpt", "d.pth"):
        state = load_checkpoint(tmp_path / name).state_dict()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert "nested under 'state_dict'" in import_checkpoint(tmp_path / "c.ckpt").notes
    assert "nested under 'checkpoint.net'" in import_checkpoint(tmp_path / "d.pth").notes


class Whole(nn.Module):
    """Pickled whole, it would need this class to load."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(2, 3)


def test_a_pickled_module_is_refused_with_the_lines_that_mend_it(tmp_path):
    torch.save(Whole(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "whole.pt")
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert len(lines) == 3
    program = (
        "\n".join(lines)
        .replace("whole.pt", str(tmp_path / "whole.pt"))
        .replace(f"state-{tmp_path}/", f"{tmp_path}/state-")
    )
    exec(program, {})
    assert load_checkpoint(tmp_path / "state-whole.pt").hidden_size == 3


def drop(*names):
    def change(tensors):
        for name in names:
            del tensors[name]

    return change


def put(name, value):
    def change(tensors):
        tensors[name] = value

    return change


def nan(tensors):
    tensors["cell_0.bn_hh.running_var_2"][1] = float("nan")


def no_statistics(tensors):
    for name in [key for key in tensors if "running" in key]:
        del tensors[name]


def twice(tensors):
    for name, tensor in list(tensors.items()):
        tensors["decoder." + name] = tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("cell_0.bn_hh.running_mean_2"), "missing: cell_0.bn_hh.running_mean_2"),
        (drop("cell_1.weight_ih", "cell_0.bn_c.bias"), "cell_0.bn_c.bias"),
        (put("cell_0.bn_x.weight", torch.ones(16)), "left over: cell_0.bn_x.weight"),
        (put("cell_0.bias", torch.ones(15)), r"cell_0.bias has shape \(15,\); expected \(16,\)"),
        (put("cell_0.weight_hh", torch.ones(16, 4)), "cell_0.weight_hh has shape"),
        (put("cell_1.weight_ih", torch.ones(4)), "cell_1.weight_ih has shape"),
        (put("cell_1.bn_c.running_mean_1", torch.ones(5)), "one shape at all steps"),
        (nan, "NaN or infinity in cell_0.bn_hh.running_var_2"),
        (no_statistics, "no population statistics"),
        (twice, "several recurrent modules"),
    ],
)
@pytest.mark.parametrize("layout", [None, "jihunchoi"])
def test_bad_checkpoints_are_one_clear_error(change, message, layout, tmp_path):
    tensors = to_torch(SOURCES["jihunchoi"](0).tensors)
    change(tensors)
    torch.save(tensors, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "bad.pt", layout=layout)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    tensors = to_torch(SOURCES["jihunchoi"](0).tensors)
    put("cell_0.bias", torch.ones(3))(tensors)
    put("cell_1.bn_ih.weight", torch.ones(7))(tensors)
    torch.save(tensors, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"(?s)cell_0.bias.*cell_1.bn_ih.weight"):
        load_checkpoint(tmp_path / "bad.pt")


def test_a_prefix_chooses_among_several_modules(tmp_path):
    tensors = to_torch(SOURCES["jihunchoi"](0).tensors)
    other = to_torch(SOURCES["jihunchoi"](1).tensors)
    both = {f"a.{k}": v for k, v in tensors.items()} | {f"b.{k}": v for k, v in other.items()}
    torch.save(both, tmp_path / "both.pt")
    chosen = load_checkpoint(tmp_path / "both.pt", prefix="b.")
    torch.save(other, tmp_path / "other.pt")
    expected = load_checkpoint(tmp_path / "other.pt").state_dict()
    assert all(torch.equal(t, expected[k]) for k, t in chosen.state_dict().items())


def test_an_unknown_checkpoint_lists_the_nearest_layouts(tmp_path):
    torch.save({"lstm.w": torch.ones(2), "lstm.u": torch.ones(2)}, tmp_path / "odd.pt")
    with pytest.raises(LayoutError, match=r"(?s)lstm.u, lstm.w.*Nearest.*missing.*mine.toml"):
        load_checkpoint(tmp_path / "odd.pt")


def test_several_matches_are_an_error_that_names_them(tmp_path, monkeypatch):
    twin = dataclasses.replace(shipped_layouts()["jihunchoi"], name="twin")
    monkeypatch.setattr(
        "bnlstm_deploy.checkpoint.loading.shipped_layouts",
        lambda: shipped_layouts() | {"twin": twin},
    )
    with pytest.raises(LayoutError, match="several layouts: jihunchoi, twin"):
        load_checkpoint(write(tmp_path, SOURCES["jihunchoi"](0)))


@pytest.mark.parametrize(
    "reason", ["batch_statistics", "joint_normalization", "normalized_cell_carried", "peepholes"]
)
def test_what_cannot_be_converted_is_refused_with_the_reason(reason, tmp_path):
    layout = dataclasses.replace(shipped_layouts()["jihunchoi"], refuse={reason: True})
    with pytest.raises(LayoutError, match="cannot be converted: it"):
        load_checkpoint(write(tmp_path, SOURCES["jihunchoi"](0)), layout=layout)


def test_peepholes_of_sonnet_are_refused(tmp_path):
    source = SOURCES["sonnet_h"](0)
    source.tensors["w_f_diag"] = np.ones(4, np.float32)
    with pytest.raises(LayoutError, match=r"w_f_diag.*peephole"):
        load_checkpoint(write(tmp_path, source))


def test_a_head_that_is_not_one_linear_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="not one Linear of 4 features but nothing"):
        import_checkpoint(write(tmp_path, SOURCES["jihunchoi"](0)), head="last")


def test_an_initial_state_that_differs_between_streams_is_an_error(tmp_path):
    source = SOURCES["mrubio"](0)
    source.tensors["h_0"] = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    with pytest.raises(LayoutError, match="h_0 differs between streams"):
        load_checkpoint(write(tmp_path, source))


def test_options_of_imports_do_not_apply_to_native_checkpoints(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="native checkpoint"):
        load_checkpoint(tmp_path, head="last")
    with pytest.raises(CheckpointError, match="both a config and a layout"):
        load_checkpoint(tmp_path, config="config.json", layout="jihunchoi")


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    torch.save([1, 2], tmp_path / "b.pt")
    (tmp_path / "c.h5").write_bytes(b"")
    np.savez(tmp_path / "d.npz", a=np.array(["text"]))
    for name, message in (
        ("a.npz", "cannot be read as .npz"),
        ("b.pt", "no dict of tensors"),
        ("c.h5", "suffix '.h5'"),
        ("d.npz", "plain arrays of numbers"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name)


def test_a_layout_that_does_not_match_says_what_is_missing(tmp_path):
    path = write(tmp_path, SOURCES["jihunchoi"](0))
    with pytest.raises(LayoutError, match=r"the layout mrubio. missing: layers.0"):
        load_checkpoint(path, layout="mrubio")
    layout = parse_layout(
        'title = "t"\n[weights]\ninput = "a"\nhidden = "b"\ngates = "ifgo"', "m", "m"
    )
    with pytest.raises(LayoutError, match="missing: b"):
        load_checkpoint(path, layout=layout)
