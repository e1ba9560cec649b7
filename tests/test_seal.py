"""The seal of exported files: damage is noticed, and nothing else."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.seal import KEY, LENGTH, check_seal, serialize
from tests.models import randomize


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sealed") / "model.onnx"
    export(randomize(BNLSTM(2, 3, max_length=2)), path)
    return path


@given(st.data())
def test_any_flipped_bit_is_noticed(path, tmp_path_factory, data):
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - LENGTH - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    damaged = tmp_path_factory.mktemp("damaged") / "model.onnx"
    damaged.write_bytes(content)
    with pytest.raises(RuntimeSessionError, match=r"is damaged: it is not what its bnlstm\.sha256"):
        check_seal(damaged)
    with pytest.raises(RuntimeSessionError, match="is damaged"):
        Session(damaged)


def test_a_truncated_file_is_no_sealed_one(path, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RuntimeSessionError, match="cannot load"):
        Session(cut)


@pytest.mark.parametrize("inline", [False, True])
def test_what_other_tools_write_anew_is_not_sealed(inline, tmp_path):
    path = tmp_path / "model.onnx"
    export(randomize(BNLSTM(2, 3, max_length=2)), path, inline=inline)
    proto = onnx.load(path)
    assert [entry.key for entry in proto.metadata_props].count(KEY) == 1
    weight = next(entry for entry in proto.graph.initializer if entry.name.startswith("weight_hh"))
    weight.raw_data = (2 * np.frombuffer(weight.raw_data, np.float32)).tobytes()
    onnx.save(proto, path)
    Session(path)


def test_it_may_be_sealed_again(path, tmp_path):
    again = tmp_path / "again.onnx"
    proto = onnx.load(path)
    proto.producer_version = "another"
    again.write_bytes(serialize(proto))
    check_seal(again)
    onnx.checker.check_model(again)
    assert [entry.key for entry in onnx.load(again).metadata_props].count(KEY) == 1
    assert onnx.load(again).ir_version == proto.ir_version


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", "[]"),
        ("layers", '[{"name": ""}]'),
        ("layers", "[" * 100_000),
        ("layers", None),
        ("time_axes", "3"),
        ("pads", "maybe"),
    ],
)
def test_metadata_that_say_nothing_sensible(name, value, path, tmp_path):
    proto = onnx.load(path)
    entry = next(e for e in proto.metadata_props if e.key == f"bnlstm.{name}")
    if value is None:
        value = entry.value.replace('"steps": 2', '"steps": -2')
        assert value != entry.value
    entry.value = value
    (tmp_path / "strange.onnx").write_bytes(serialize(proto))
    with pytest.raises(RuntimeSessionError, match=r"the file's bnlstm\.\* metadata is damaged"):
        Session(tmp_path / "strange.onnx")
