"""Imported models against recordings of their sources, and the search for the right reading."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bnlstm_deploy.checkpoint import (
    compare_recording,
    import_checkpoint,
    read_recording,
)
from bnlstm_deploy.checkpoint.ambiguities import find_fit
from bnlstm_deploy.checkpoint.recorded import Recording
from bnlstm_deploy.errors import InputError
from tests.checkpoint.sources import SOURCES
from tests.checkpoint.test_loading import write

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"
NAMES = ("stacked_per_step", "bidirectional_shared")


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_checkpoints_are_met_without_a_flag(name):
    if not SHARED.exists():
        pytest.skip("the recorded checkpoints are not beside this repository")
    model = import_checkpoint(SHARED / f"{name}.pt").model
    recording = read_recording(SHARED / f"{name}.npz")
    agreement = compare_recording(model, recording)
    assert agreement.holds
    doubles = [error for value, error in agreement.errors.items() if "float64" in value]
    assert len(doubles) == 3
    assert max(doubles) < 1e-13
    for value in ("output", "h_n", "c_n"):
        single, double = getattr(recording, value), getattr(recording, f"{value}_fp64")
        own_error = np.abs(single - double).max()
        assert agreement.errors[f"{value} (float32)"] <= own_error * (1 + 1e-6)


def record(name, seed=0, **changes):
    source = SOURCES[name](seed)
    output, h_n, c_n = source.run(source.x)
    return source, Recording(source.x, output, h_n, c_n, **changes)


@pytest.mark.parametrize("name", ["jihunchoi", "hellozgy_bidirectional", "sonnet_all"])
@pytest.mark.parametrize("x_axes", [0, 1])
@pytest.mark.parametrize("y_axes", [0, 1])
def test_every_order_of_axes_is_tried(name, x_axes, y_axes, tmp_path):
    source, recording = record(name)
    turned = dataclasses.replace(
        recording,
        x=recording.x.swapaxes(0, 1) if x_axes else recording.x,
        output=recording.output.swapaxes(0, 1) if y_axes else recording.output,
    )
    agreement = compare_recording(import_checkpoint(write(tmp_path, source)).model, turned)
    assert agreement.holds
    words = ("batch-first", "time-major")
    assert agreement.axes == f"x {words[x_axes]} and output {words[y_axes]}"


def test_lengths_and_initial_states(tmp_path):
    source = SOURCES["jihunchoi"](0)
    generator = np.random.default_rng(0)
    h, c = generator.uniform(-1, 1, (2, 3, 4)), generator.standard_normal((2, 3, 4))
    lengths = np.array([9, 2, 5])
    output, h_n, c_n = source.run(source.x, h, c, lengths)  # past its end the source repeats h
    recording = Recording(source.x, output, h_n, c_n, initial_h=h, initial_c=c, lengths=lengths)
    model = import_checkpoint(write(tmp_path, source)).model
    assert compare_recording(model, recording).holds
    assert not compare_recording(model, dataclasses.replace(recording, lengths=None)).holds


@pytest.mark.parametrize("pooling", ["last", "every"])
def test_the_output_of_a_head(pooling, tmp_path):
    source, recording = record("jihunchoi_wrapped")
    weight, bias = source.tensors["fc.weight"], source.tensors["fc.bias"]
    read = recording.h_n[-1] if pooling == "last" else recording.output
    logits = read @ weight.T.astype(float) + bias
    imported = import_checkpoint(write(tmp_path, source), head=pooling)
    recording = dataclasses.replace(recording, output=logits)
    assert compare_recording(imported.model, recording).holds
    off = dataclasses.replace(recording, output=logits + 1e-6)
    assert not compare_recording(imported.model, off).holds


def test_float32_recordings_may_be_off_by_rounding_alone(tmp_path):
    source, recording = record("jihunchoi")
    model = import_checkpoint(write(tmp_path, source), batch_first=True).model
    with torch.no_grad():
        rounded = model(torch.from_numpy(source.x).float())[0].numpy()
    single = Recording(source.x.astype(np.float32).astype(float), rounded)
    assert compare_recording(model, single).holds
    wrong = dataclasses.replace(single, output=rounded + np.float32(1e-5))
    assert not compare_recording(model, wrong).holds
    nothing = dataclasses.replace(single, output=np.full_like(rounded, np.nan))
    assert not compare_recording(model, nothing).holds
    assert recording.output.dtype == np.float64


def weights(**values):
    return lambda layout: dataclasses.replace(
        layout, weights=dataclasses.replace(layout.weights, **values)
    )


def norms(**values):
    def change(layout):
        changed = {
            path: dataclasses.replace(norm, **values) for path, norm in layout.normalization.items()
        }
        return dataclasses.replace(layout, normalization=changed)

    return change


def cell(**values):
    def change(layout):
        changed = dict(layout.normalization)
        changed["cell"] = dataclasses.replace(changed["cell"], **values)
        return dataclasses.replace(layout, normalization=changed)

    return change


def forget(bias):
    return lambda layout: dataclasses.replace(
        layout, bias=dataclasses.replace(layout.bias, forget=bias)
    )


@pytest.mark.parametrize(
    ("name", "mistakes", "expected"),
    [
        ("jihunchoi", [weights(gates="ifog")], {"gate order fiog"}),
        ("jihunchoi", [norms(eps=1e-3)], {"eps 1e-05"}),
        ("olavhn", [norms(eps=1e-5)], {"eps 0.001"}),
        ("jihunchoi", [forget(1.0)], {"0 added to the forget gate"}),
        ("sonnet_hx", [forget(0.0)], {"1 added to the forget gate"}),
        ("houlu_per_step", [cell(applied=True)], {"the cell normalization ignored"}),
        ("jihunchoi", [cell(applied=False)], {"the cell normalization applied"}),
        ("musyoku", [weights(interleaved=False)], {"gates interleaved unit by unit"}),
        ("hellozgy", [weights(interleaved=True)], {"gates not interleaved"}),
        (
            "sonnet_all",
            [weights(gates="ifgo"), norms(eps=1e-5), forget(0.0)],
            {"gate order igfo", "eps 0.001", "1 added to the forget gate"},
        ),
    ],
)
def test_the_right_reading_is_found_and_named(name, mistakes, expected, tmp_path):
    source, recording = record(name)
    path = write(tmp_path, source)
    layout = import_checkpoint(path).layout
    for mistake in mistakes:
        layout = mistake(layout)
    imported = import_checkpoint(path, layout=layout)
    assert not compare_recording(imported.model, recording).holds
    fit = find_fit(imported.match, imported.tensors, recording)
    assert fit is not None
    assert set(fit.reading.changes) == expected
    assert fit.agreement.holds


def test_normalizations_shared_by_both_directions_are_found(tmp_path):
    source = SOURCES["hellozgy_bidirectional"](0)
    own = dict(source.tensors)
    for key in own:
        if key.startswith("lstm_b.bn"):
            source.tensors[key] = own[key.replace("lstm_b", "lstm_f")]
    recording = Recording(source.x, *source.run(source.x))
    source.tensors.update(own)
    imported = import_checkpoint(write(tmp_path, source))
    fit = find_fit(imported.match, imported.tensors, recording)
    assert fit is not None
    assert fit.reading.changes == ("normalizations shared by both directions",)


def test_transposed_square_input_weights_are_found(tmp_path):
    source = SOURCES["cooijmans"](0)
    square = np.random.default_rng(0).uniform(-0.6, 0.6, (16, 16)).astype(np.float32)
    source = dataclasses.replace(
        source,
        tensors=source.tensors | {"Wx": square},
        x=np.random.default_rng(1).normal(size=(3, 9, 16)),
    )
    recording = Recording(source.x, *source.run(source.x))
    turned = dataclasses.replace(source, tensors=source.tensors | {"Wx": square.T})
    imported = import_checkpoint(write(tmp_path, turned))
    fit = find_fit(imported.match, imported.tensors, recording)
    assert fit is not None
    assert fit.reading.changes == ("input weights transposed",)


def test_no_reading_fits_other_weights(tmp_path):
    _, recording = record("hellozgy", seed=1)
    imported = import_checkpoint(write(tmp_path, SOURCES["hellozgy"](0)))
    seen = []
    fit = find_fit(
        imported.match, imported.tensors, recording, progress=lambda *counts: seen.append(counts)
    )
    assert fit is None
    assert seen[0][0] == 0
    assert seen[-1][0] + 1 == seen[-1][1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((2, 3, 4))}, r"lacks \['output'\]"),
        ({"x": np.ones((2, 3, 4)), "y": np.ones(3)}, r"unknown arrays \['y'\]"),
        ({"x": np.ones((3, 4)), "output": np.ones((3, 4))}, r"x has shape \(3, 4\)"),
        (
            {"x": np.ones((2, 3, 4)), "output": np.ones((2, 3, 4)), "initial_h": np.ones(1)},
            "save both",
        ),
        ({"x": np.ones((2, 3, 4)), "output": np.array(["a"])}, r"output <U1 of shape \(1,\)"),
    ],
)
def test_bad_recordings_are_one_clear_error(arrays, message, tmp_path):
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_recording(tmp_path / "r.npz")


def test_recordings_of_another_model_are_one_clear_error(tmp_path):
    (tmp_path / "r.npz").write_text("no archive")
    with pytest.raises(InputError, match="cannot be read"):
        read_recording(tmp_path / "r.npz")
    source, recording = record("jihunchoi")
    model = import_checkpoint(write(tmp_path, source)).model
    with pytest.raises(InputError, match="no order of axes"):
        compare_recording(model, dataclasses.replace(recording, x=recording.x[..., :2]))
    with pytest.raises(InputError, match=r"the recorded output is \(9, 3, 3\)"):
        compare_recording(model, dataclasses.replace(recording, output=recording.output[..., :3]))


ARRANGEMENTS = {
    "(N, layers * directions, H)": lambda s: s.swapaxes(0, 1),
    "(N, layers * directions * H)": lambda s: s.swapaxes(0, 1).reshape(s.shape[1], -1),
    "the rows of each stream together": lambda s: s.swapaxes(0, 1).reshape(s.shape),
}


@pytest.mark.parametrize("arranged", ARRANGEMENTS)
@pytest.mark.parametrize("name", ["jihunchoi", "hellozgy_bidirectional"])
def test_usual_arrangements_of_final_states(name, arranged, tmp_path):
    source, recording = record(name)
    change = ARRANGEMENTS[arranged]
    model = import_checkpoint(write(tmp_path, source)).model
    changed = dataclasses.replace(recording, c_n=change(recording.c_n))
    agreement = compare_recording(model, changed)
    assert agreement.holds, agreement
    assert agreement.axes.endswith(f", c_n as {arranged}")
    wrong = compare_recording(model, dataclasses.replace(changed, c_n=changed.c_n + 1e-3))
    assert wrong.differing == ("c_n",)
    assert str(wrong).startswith("c_n differs: output (float64) off by")


def test_the_output_alone(tmp_path):
    source, recording = record("jihunchoi")
    model = import_checkpoint(write(tmp_path, source)).model
    strange = dataclasses.replace(recording, c_n=recording.c_n[..., :-1])
    with pytest.raises(InputError, match=r"in no order of axes: c_n \(2, 3, 3\), where x is"):
        compare_recording(model, strange)
    assert compare_recording(model, strange, states=False).holds
    wrong = dataclasses.replace(strange, output=recording.output + 1e-3)
    assert compare_recording(model, wrong, states=False).differing == ("output",)


def test_a_state_of_no_known_arrangement(tmp_path):
    source, recording = record("jihunchoi")
    model = import_checkpoint(write(tmp_path, source)).model
    flat = dataclasses.replace(recording, h_n=recording.h_n.ravel())
    with pytest.raises(
        InputError, match=r"recorded h_n has shape \(24,\), the model's \(2, 3, 4\)"
    ):
        compare_recording(model, flat)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("x", np.zeros((2, 3, 4), "U1")),
        ("output", np.zeros((2, 3, 4), int)),
        ("lengths", np.ones(2)),
    ],
)
def test_recordings_of_other_than_numbers(name, array, tmp_path):
    _, recording = record("jihunchoi")
    arrays = {"x": recording.x, "output": recording.output, name: array}
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(InputError, match="save floating point numbers, integers for lengths"):
        read_recording(tmp_path / "r.npz")
