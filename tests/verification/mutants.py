"""Faults planted in correct files: each mutant changes one thing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.exporting.nodes import all_nodes

Change = Callable[[onnx.ModelProto], None]

STEPWISE = ("bias", "input_scale", "hidden_scale", "cell_scale", "cell_shift")
ARRAYS = ("weight_ih", "weight_hh", *STEPWISE)


def array(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto
    (found,) = (entry for entry in proto.graph.initializer if entry.name.endswith(name))
    return found


def set_array(name: str, change: Callable[[Any], Any]) -> Change:
    def apply(proto: onnx.ModelProto) -> None:
        target = array(proto, name)
        values = change(numpy_helper.to_array(target).copy())
        target.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), target.name))

    return apply


def rewire(output: str, replacement: str) -> Change:
    """Let the nodes of the bodies that compute `output` copy `replacement` instead."""

    def apply(proto: onnx.ModelProto) -> None:
        nodes = [n for f in proto.functions for n in all_nodes(f.node) if output in n.output]
        assert nodes, output
        for node in nodes:
            node.op_type = "Identity"
            del node.attribute[:], node.input[:], node.output[1:]
            node.input.append(replacement)
            node.output[0] = output

    return apply


def operator(old: str, new: str) -> Change:
    """Let one operator of the timestep be another."""

    def apply(proto: onnx.ModelProto) -> None:
        nodes = [n for f in proto.functions for n in all_nodes(f.node) if n.output[:1] == [old]]
        assert nodes, old
        for node in nodes:
            node.op_type = new

    return apply


def feed(output: str, index: int, name: str, operator_: str | None = None) -> Change:
    """Let the nodes that compute `output` take another input, and be another operator."""

    def apply(proto: onnx.ModelProto) -> None:
        nodes = [n for f in proto.functions for n in all_nodes(f.node) if n.output[:1] == [output]]
        assert nodes, output
        for node in nodes:
            node.input[index] = name
            node.op_type = operator_ or node.op_type

    return apply


def lose_mask(output: str) -> Change:
    """Let what is held or blanked past a stream's length be computed like the rest."""

    def apply(proto: onnx.ModelProto) -> None:
        bodies = [n for f in proto.functions for n in all_nodes(f.node)]
        masks = [n for n in bodies if n.op_type == "Where" and n.output[0] == output]
        assert masks, output
        for mask in masks:
            mask.input[2] = mask.input[1]

    return apply


def exchange(one: str, other: str) -> Change:
    def apply(proto: onnx.ModelProto) -> None:
        a, b = array(proto, one), array(proto, other)
        first, second = numpy_helper.to_array(a).copy(), numpy_helper.to_array(b).copy()
        a.CopyFrom(numpy_helper.from_array(second, a.name))
        b.CopyFrom(numpy_helper.from_array(first, b.name))

    return apply


def element(values: Any) -> Any:
    index = np.unravel_index(np.abs(values).argmax(), values.shape)
    values[index] *= np.float32(1 + 1e-3)
    return values


def one_gate(values: Any) -> Any:
    values[..., : values.shape[-1] // 4] *= np.float32(1.01)
    return values


def times(factor: float) -> Callable[[Any], Any]:
    return lambda values: values * np.float32(factor)


def row(index: int, factor: float) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[index] *= np.float32(factor)
        return values

    return change


def put_nan(values: Any) -> Any:
    values[-1, -1] = np.nan
    return values


def rows_of_gates(values: Any) -> Any:
    """Gates i and o exchanged in a weight (4H, D)."""
    i, f, g, o = np.split(values, 4)
    return np.concatenate([o, f, g, i])


def columns_of_gates(values: Any) -> Any:
    """Gates f and g exchanged in an array (S, 4H)."""
    i, f, g, o = np.split(values, 4, axis=1)
    return np.concatenate([i, g, f, o], axis=1)


def blocks_transposed(values: Any) -> Any:
    """weight_hh transposed gate by gate."""
    return np.concatenate([block.T for block in np.split(values, 4)])


def mutants(suffixes: tuple[str, ...]) -> dict[str, Change]:
    """Return every mutant of a file with these layers and directions, by name."""
    made: dict[str, Change] = {}
    for suffix in suffixes:
        for name in ARRAYS:
            made[f"{name}{suffix} off by 1 %"] = set_array(name + suffix, times(1.01))
            made[f"{name}{suffix}, its largest element off by 0.1 %"] = set_array(
                name + suffix, element
            )
        for name in STEPWISE:
            made[f"{name}{suffix} shifted by a step"] = set_array(
                name + suffix, lambda v: np.roll(v, 1, axis=0)
            )
            made[f"{name}{suffix} shifted back by a step"] = set_array(
                name + suffix, lambda v: np.roll(v, -1, axis=0)
            )
            made[f"{name}{suffix}, first step off by 1 %"] = set_array(name + suffix, row(0, 1.01))
            made[f"{name}{suffix}, last step off by 1 %"] = set_array(name + suffix, row(-1, 1.01))
        for name in ("bias", "input_scale", "hidden_scale"):
            made[f"{name}{suffix}, one gate off by 1 %"] = set_array(name + suffix, one_gate)
            made[f"{name}{suffix}, gates f and g exchanged"] = set_array(
                name + suffix, columns_of_gates
            )
        for name in ("weight_ih", "weight_hh"):
            made[f"{name}{suffix}, gates i and o exchanged"] = set_array(
                name + suffix, rows_of_gates
            )
        made[f"weight_hh{suffix} transposed"] = set_array(f"weight_hh{suffix}", blocks_transposed)
        made[f"bias{suffix} twice"] = set_array(f"bias{suffix}", times(2))
        made[f"bias{suffix} missing"] = set_array(f"bias{suffix}", times(0))
        made[f"cell_shift{suffix} missing"] = set_array(f"cell_shift{suffix}", times(0))
        made[f"cell_scale{suffix} missing"] = set_array(f"cell_scale{suffix}", np.ones_like)
        made[f"NaN in cell_shift{suffix}"] = set_array(f"cell_shift{suffix}", put_nan)
        made[f"scales of x and h exchanged{suffix}"] = exchange(
            f"input_scale{suffix}", f"hidden_scale{suffix}"
        )
    return made | {
        "start step ignored": rewire("step", "t"),
        "first row at all timesteps": feed("row", 1, "zero"),
        "last row not clamped, but around": feed("row", 1, "shape_S", "Mod"),
        "c not held past a length": lose_mask("c_new"),
        "output not blanked past a length": lose_mask("y"),
        "shift of the cell ignored": rewire("cell", "cell_scaled"),
        "final h of the last timestep": rewire("Y_h_ragged", "h_last"),
        "initial h of empty streams lost": rewire("Y_h_ragged", "h_end"),
        "initial h for initial c": feed("c_0", 0, "initial_h"),
        "initial c for initial h": feed("h_0", 0, "initial_c"),
        "forget and input gate exchanged": feed("kept", 0, "i"),
        "cell affine of the cell before": feed("cell_scaled", 0, "c"),
        "sigmoid of g": operator("g", "Sigmoid"),
        "tanh of i": operator("i", "Tanh"),
        "tanh missing from the output": operator("squashed", "Identity"),
        "c minus what is added": operator("c_new", "Sub"),
    }


NAMED = {
    "weight_ih_l0, its largest element off by 0.1 %": "a few elements differ: weight_ih_l0",
    "cell_shift_l1, its largest element off by 0.1 %": "a few elements differ: cell_shift_l1",
    "NaN in cell_shift_l1": "a few elements differ: cell_shift_l1",
}
"""What the diagnosis calls mutants in a few elements."""
