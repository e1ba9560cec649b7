"""Reading .npz files: every other file is an error of this package."""

import io
import pickle

import numpy as np
import pytest

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.npz import read_npz


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


WHOLE = npz(x=np.arange(1000.0), y=np.arange(3))


def test_arrays_by_name(tmp_path):
    (tmp_path / "a.npz").write_bytes(WHOLE)
    arrays = read_npz(tmp_path / "a.npz")
    assert list(arrays) == ["x", "y"]
    assert np.array_equal(arrays["x"], np.arange(1000.0))


def test_the_one_array_of_an_npy_file(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(np.arange(3)))
    assert np.array_equal(read_npz(tmp_path / "a.npy", "x")["x"], np.arange(3))
    with pytest.raises(InputError, match="holds one array without a name"):
        read_npz(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"PK\x03\x04",
        WHOLE[:-30],
        WHOLE[:200] + bytes(20) + WHOLE[220:],
        pickle.dumps({"x": 1}),
        npy(np.array([{"x": 1}], object)),
        npz(x=np.array([{"x": 1}], object)),
    ],
    ids=["empty", "text", "a head", "cut", "damaged", "a pickle", "objects", "objects by name"],
)
def test_other_files(content, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as \.npz: "):
        read_npz(tmp_path / "a.npz")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"cannot be read as \.npz: "):
        read_npz(tmp_path)
