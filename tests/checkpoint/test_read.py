"""What files hold, hostile ones too: plain numbers are read, anything else is a clear error."""

import io
import re
import zipfile

import numpy as np
import pytest
import torch

from bnlstm_deploy.checkpoint import import_checkpoint, load, save_checkpoint
from bnlstm_deploy.errors import CheckpointError, InputError
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.npz import read_npz


def checkpoint(steps=3):
    """What jihunchoi's code saves, of random numbers."""
    norms = {"ih": 16, "hh": 16, "c": 4}
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight_ih": (3, 16), "weight_hh": (4, 16), "bias": (16,)}
    for name, size in norms.items():
        shapes |= {f"bn_{name}.{key}": (size,) for key in ("weight", "bias")}
        shapes |= {
            f"bn_{name}.running_{kind}_{t}": (size,)
            for kind in ("mean", "var")
            for t in range(steps)
        }
    return {f"cell_0.{n}": torch.rand(s, generator=generator) + 0.5 for n, s in shapes.items()}


def imported(tensors, folder, **options):
    path = folder / "source.pt"
    torch.save(tensors, path)
    return import_checkpoint(path, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.complex64), "is complex64; weights and statistics are float64,"),
        (lambda t: t > 0, "is bool; weights"),
        (lambda t: t.long(), "is int64; weights"),
        (lambda t: t.to(torch.float8_e4m3fn), "is float8_e4m3fn; weights"),
        (lambda t: t.to("meta"), r"is no plain tensor \(a meta tensor\)"),
        (lambda t: t.to_sparse(), r"is no plain tensor \(float32, torch.sparse_coo\)"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is no plain tensor"),
        (lambda t: torch.ones(1).expand(10**12), "is an expanded tensor of shape .*more than"),
        (lambda t: t[:0], "has shape .*expected (at least one value|one shape)"),
        (lambda t: t[..., :-1], "has shape"),
        (lambda t: torch.full_like(t, torch.nan), "NaN or infinity in cell_0"),
    ],
)
@pytest.mark.parametrize("key", ["weight_ih", "weight_hh", "bias", "bn_hh.running_mean_2"])
@pytest.mark.filterwarnings("ignore")  # of torch, about quantized tensors
def test_strange_tensors(change, message, key, tmp_path):
    tensors = checkpoint()
    tensors[f"cell_0.{key}"] = change(tensors[f"cell_0.{key}"])
    with pytest.raises(CheckpointError, match=message):
        imported(tensors, tmp_path)


def test_strange_tensors_beside_the_recurrent_layers_do_not_matter(tmp_path):
    tensors = checkpoint() | {"mask": torch.zeros(3, dtype=torch.bool).to_sparse()}
    wrapped = {f"rnn.{name}": t for name, t in tensors.items() if name != "mask"}
    found = imported(wrapped | {"mask": tensors["mask"]}, tmp_path)
    assert any("left over: mask" in note for note in found.notes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_all_floating_point_weights_are_exact(dtype, tmp_path):
    tensors = {name: t.to(dtype) for name, t in checkpoint().items()}
    model = imported(tensors, tmp_path).model
    assert (
        model.weight_ih_l0.double().sum() - tensors["cell_0.weight_ih"].double().sum()
    ).abs() < 1e-9


def test_one_of_several_versions_is_taken_and_the_others_are_named(tmp_path):
    ema = {name: t + 1 for name, t in checkpoint().items()}
    content = {"model": checkpoint(), "ema": ema, "optimizer": {"state": checkpoint()}}
    found = imported(content, tmp_path)
    assert "nested under 'model'; not read: 'ema'" in found.notes


def test_a_native_checkpoint_is_one_version(tmp_path):
    model = BNLSTM(2, 3, max_length=2)
    save_checkpoint(model, tmp_path)
    torch.save({"model": model.state_dict(), "ema": model.state_dict()}, tmp_path / "all.pt")
    with pytest.raises(CheckpointError, match="the same keys under model, ema; save the state"):
        load(tmp_path / "all.pt")


def test_containers_that_hold_themselves_or_are_deep(tmp_path):
    content = {"model": checkpoint()}
    content["self"] = content
    assert "nested under 'model'" in imported(content, tmp_path).notes
    for _ in range(300):
        content = {"deeper": content}
    assert imported(content, tmp_path).notes[1].endswith("deeper.model'")


@pytest.mark.parametrize("content", [b"text", b"\x80\x02e.", b"", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_other_content_by_the_name_of_a_checkpoint(content, tmp_path):
    for suffix in (".pt", ".npz", ".safetensors"):
        path = tmp_path / f"source{suffix}"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be read as|with no dict of tensors"):
            import_checkpoint(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "source.pt"
    torch.save(checkpoint(), path)
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("data/0"))
    content = bytearray(path.read_bytes())
    content[content.index(b"FB", entry.header_offset) + 100] ^= 1  # torch pads with it
    path.write_bytes(content)
    torch.load(path)  # which does not notice
    with pytest.raises(CheckpointError, match=r"data/0 has another checksum\); it is damaged"):
        import_checkpoint(path)


def npz(folder, **files):
    path = folder / "source.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array, **header):
    stream = io.BytesIO()
    if header:
        known = {"descr": "<f4", "fortran_order": False, "shape": (1,)}
        np.lib.format.write_array_header_1_0(stream, known | header)
    else:
        np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(None, shape=(10**12, 16)), "is not what 128 bytes hold"),
        (npy(None, shape=(10**30,)), "is not what 128 bytes hold"),
        (npy(np.zeros(3)) + b"more", "is not what 156 bytes hold"),
        (npy(None, descr="|O"), "Object arrays"),
        (bytes(300_000_000), "would unpack to 300000000; save it without compression"),
        (b"\x93NUMPY\x03\x00" + bytes(20), "other than numbers"),
    ],
    ids=["terabytes", "more than there is", "trailing bytes", "objects", "a bomb", "version 3"],
)
def test_archives_that_are_more_or_less_than_they_say(content, message, tmp_path):
    path = npz(tmp_path, x=content)
    with pytest.raises(InputError, match=message):
        read_npz(path)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(path)


def test_numbers_of_other_machines(tmp_path):
    arrays = {name: t.numpy() for name, t in checkpoint().items()}
    np.savez(tmp_path / "little.npz", **arrays)
    np.savez(tmp_path / "big.npz", **{name: a.astype(">f4") for name, a in arrays.items()})
    little, big = (import_checkpoint(tmp_path / f"{name}.npz").model for name in ("little", "big"))
    for one, other in zip(little.parameters(), big.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_configuration_takes_no_memory_that_the_file_does_not_hold(tmp_path):
    save_checkpoint(BNLSTM(2, 3, max_length=2), tmp_path)
    config = tmp_path / "config.json"
    text = config.read_text()
    for name, value, message in (
        ("max_length", 3 * 10**9, "has shape"),
        ("hidden_size", 10**9, "has shape|no model that can be built"),
        ("hidden_size", 10**15, "no model that can be built|has shape"),
        ("num_layers", 10**12, "num_layers 1000000000000, and the file beside it holds"),
    ):
        config.write_text(re.sub(rf'"{name}": \d+', f'"{name}": {value}', text))
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.complex64), "head.weight is complex64"),
        (lambda t: t[:1].expand(10**9, -1), "head.weight is an expanded tensor"),
    ],
)
def test_strange_heads(change, message, tmp_path):
    tensors = {f"rnn.{name}": t for name, t in checkpoint().items()}
    tensors |= {"head.weight": change(torch.rand(2, 4)), "head.bias": torch.rand(1).expand(2)}
    if "expanded" in message:
        tensors["head.bias"] = torch.rand(1).expand(10**9)
    else:
        tensors["head.bias"] = torch.rand(2)
    with pytest.raises(CheckpointError, match=message):
        imported(tensors, tmp_path, head="last")


def test_a_state_dict_that_unpacks_to_far_more_than_it_is(tmp_path):
    torch.save(checkpoint(), tmp_path / "plain.pt")
    path = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
        packed.writestr("plain/data/99", bytes(300_000_000))
    with pytest.raises(CheckpointError, match=r"would unpack to .*save it without compression"):
        import_checkpoint(path)


def test_text_nested_without_end(tmp_path):
    deep = "[" * 100_000
    save_checkpoint(BNLSTM(2, 3, max_length=2), tmp_path)
    (tmp_path / "config.json").write_text(deep + "]" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON"):
        load(tmp_path)
    torch.save(checkpoint(), tmp_path / "source.pt")
    (tmp_path / "mine.toml").write_text(f"title = {deep}")
    with pytest.raises(CheckpointError, match=r"mine\.toml is not valid TOML"):
        import_checkpoint(tmp_path / "source.pt", layout=tmp_path / "mine.toml")
