"""The unrolled form: a fixed number of timesteps, one after the other, without control flow."""

import hashlib
import itertools
import math
from collections.abc import Sequence

import onnx

from bnlstm_deploy.exporting.forms import parts
from bnlstm_deploy.exporting.forms.parts import Site

FORM = "unrolled"

WIDTH = 32
"""The most outputs of a Split and inputs of a Concat.

ONNX Runtime's CUDA kernels keep so many addresses in a kernel's arguments. Beyond that they copy
them to the device, which the capture of a CUDA graph refuses or, worse, replays from freed memory.
"""


def function(site: Site, *, materialized: bool) -> onnx.FunctionProto:
    """Write the body of `bnlstm::BNLSTM` timestep by timestep, for T = `site.time`.

    It has no Scan, Loop or If, and so runs in a CUDA graph and on engines without control flow. The
    input product is computed for all timesteps at once and split, in a tree, into those of each.

    On a GPU each operator is a kernel to launch, and a small timestep takes as long as its launches
    do. Hence:

    - tanh(z) = 2 sigmoid(2z) - 1, so one Sigmoid over 4H gives all gates, from weights, scales and
      biases in which the part of g is doubled.
    - What is carried is c / 2 = f * c / 2 + i * (sigmoid(2z) - 1/2), which saves the doubling; the
      cell's scale makes up for it. Both factors are powers of two, and change no rounding.
    - Materialized, the hidden product is one Gemm with weights of its row's own and no scale.

    Weights, scales and biases are computed from the arrays, each once, so the file stays small and
    ONNX Runtime does it as it loads the graph. Materialized, the rows are written into the body, so
    the input `rows` is not looked at.

    With `lengths` all timesteps run; what they give past a stream's length is blanked in Y, and the
    final states are picked from those of all timesteps. That is cheaper than holding the state.

    Args:
        site: The node that the body is for; without `start_step` if it is materialized.
        materialized: Whether the hidden scale is multiplied into the weights.
    """
    assert site.time is not None
    own_weights = materialized and "hidden_scale" in site.present
    time, ragged = site.time, "lengths" in site.present
    widths = split_widths(time)
    per_step = ["gates_x"]
    if "hidden_scale" in site.present and not own_weights:
        per_step.append("hidden_scale")
    if "cell_scale" in site.present:
        per_step += ["cell_scale", "cell_shift"]
    weights = [f"R_{site.rows[min(t, len(site.rows) - 1)]}" for t in range(time)]
    if not own_weights:
        weights = ["R"] * time
    padding = math.prod(widths) - time
    body = f"""
      {parts.CONSTANTS}
      T = Constant <value_int = {time}> ()
      shape_T = Constant <value_ints = [{time}]> ()
      padded_T = Constant <value_int = {time + padding}> ()
      {_PADDED.format(padding=padding) if padding else ""}
      {_doubled(site)}
      {parts.rows(site.present, _TABLES, time="padded_T")}
      {parts.gates_x(site, x="X_padded" if padding else "X", weight=_input_weight(site))}
      {_recurrent_weights(site, sorted(set(site.rows[:time])) if own_weights else None)}
      {"".join(_flat(name) + _split(name, widths, time) for name in per_step)}
      {parts.narrow(site, "h_start", "h_0")}
      half_c_0 = Mul (c_0, half)
      {"".join(_timestep(site, t, per_step, weight) for t, weight in enumerate(weights))}
      shape_TNH = Concat <axis = 0> (shape_T, shape_NH)
      {_joined("h", time, "Y_all" if ragged else "Y")}
      {_joined("half_c", time, "half_c_all") if ragged else ""}
      {_ragged(site) if ragged else _whole(site, time)}
    """
    form = f"{FORM}_materialized_{time}" if materialized else f"{FORM}_{time}"
    if own_weights:
        form += f"_rows_{hashlib.sha256(repr(weights).encode()).hexdigest()[:8]}"
    return parts.function(parts.overload(form, site), site, body)


def split_widths(time: int) -> tuple[int, ...]:
    """Return the widths of a tree of equal Splits with at least `time` leaves, each at most WIDTH.

    The tree is as flat as it can be, and then has as few leaves as it can have.
    """
    depth = 1
    while WIDTH**depth < time:
        depth += 1
    trees = []
    for head in itertools.product(range(1, WIDTH + 1), repeat=depth - 1):
        last = -(-time // math.prod(head))
        if last <= WIDTH:
            trees.append((*head, last))
    return min(trees, key=lambda widths: (math.prod(widths), widths))


# Timesteps of 0 at the end, where no tree of equal Splits has T leaves.
_PADDED = """
      pads = Constant <value_ints = [0, 0, 0, {padding}, 0, 0]> ()
      X_padded = Pad (X, pads)
"""


_TABLES = {name: f"{name}_doubled" for name in ("bias", "input_scale", "hidden_scale")} | {
    "cell_scale": "cell_scale_doubled"
}
"""What takes the place of the node's arrays."""


def _doubled(site: Site) -> str:
    """The arrays with the part of g doubled, and the cell's scale, which is applied to c / 2."""
    of_gates = [n for n in ("bias", "input_scale", "hidden_scale") if n in site.present]
    return f"""
      half_float = Constant <value_float = 0.5> ()
      half = CastLike (half_float, bias)
      two_float = Constant <value_float = 2.0> ()
      two = CastLike (two_float, bias)
      of_g_float = Constant <value_floats = [1.0, 1.0, 2.0, 1.0]> ()
      of_g = CastLike (of_g_float, bias)
      of_g_column = Unsqueeze (of_g, last_axis)
      four = Constant <value_ints = [4]> ()
      shape_4_H = Concat <axis = 0> (four, shape_H)
      of_g_square = Expand (of_g_column, shape_4_H)
      doubling = Reshape (of_g_square, last_axis)
      {"".join(f"{name}_doubled = Mul ({name}, doubling)" + chr(10) for name in of_gates)}
      {"cell_scale_doubled = Mul (cell_scale, two)" if "cell_scale" in site.present else ""}
    """


def _input_weight(site: Site) -> str:
    """W, doubled for g if there is no scale that could be."""
    if "input_scale" in site.present:
        return parts.INPUT_WEIGHT
    return f"""
      {parts.wide(site, "weight_ih_wide", "weight_ih")}
      W_wide = Transpose <perm = [1, 0]> (weight_ih_wide)
      W_doubled = Mul (W_wide, doubling)
      {parts.narrow(site, "W", "W_doubled")}
    """


def _recurrent_weights(site: Site, rows: Sequence[int] | None) -> str:
    """R, doubled for g if there is no scale that could be; or R_k for each row k."""
    text = f"""
      {parts.wide(site, "weight_hh_wide", "weight_hh")}
      R_wide = Transpose <perm = [1, 0]> (weight_hh_wide)
    """
    if rows is not None:
        for k in rows:
            text += f"""
      k_{k} = Constant <value_ints = [{k}]> ()
      hidden_scale_of_{k} = Gather (hidden_scale_doubled, k_{k})
      R_wide_{k} = Mul (R_wide, hidden_scale_of_{k})
      {parts.narrow(site, f"R_{k}", f"R_wide_{k}")}
            """
    elif "hidden_scale" in site.present:
        text += parts.RECURRENT_WEIGHT
    else:
        text += f"""
      R_doubled = Mul (R_wide, doubling)
      {parts.narrow(site, "R", "R_doubled")}
        """
    return text


def _flat(name: str) -> str:
    """`{name}_all`, timesteps and streams in one axis, so that its parts need no squeeze."""
    rows = name if name == "gates_x" else f"{name}_rows"
    return f"""
      {name}_width = Shape <start = 2, end = 3> ({rows})
      {name}_shape = Concat <axis = 0> (last_axis, {name}_width)
      {name}_all = Reshape ({rows}, {name}_shape)
    """


def _split(name: str, widths: tuple[int, ...], time: int) -> str:
    """`{name}_0` to `{name}_{T - 1}` of `{name}_all`, by a tree of Splits of these widths."""
    text, parents = "", [f"{name}_all"]
    for level, width in enumerate(widths):
        leaves = math.prod(widths[level + 1 :])  # of each child
        child = f"{name}_part_{level}" if level + 1 < len(widths) else name
        children = [f"{child}_{number}" for number in range(width * len(parents))]
        for number, parent in enumerate(parents):
            outputs = children[number * width : (number + 1) * width]
            text += f"{', '.join(outputs)} = Split <axis = 0, num_outputs = {width}> ({parent})\n"
        parents = children[: -(-time // leaves)]
    return text


def _timestep(site: Site, t: int, per_step: list[str], weight: str) -> str:
    """The nodes of timestep t."""
    h, h_new = "h_start" if t == 0 else f"h_{t}", f"h_{t + 1}"
    h_wide = f"h_wide_{t + 1}" if site.reduced else h_new
    if site.reduced or "hidden_scale" in per_step:
        scale = f"hidden_scale_{t}" if "hidden_scale" in per_step else ""
        gates = f"""
          {parts.hidden_product(site, f"h_scaled_{t}", h, weight, scale)}
          gates_{t} = Add (h_scaled_{t}, gates_x_{t})
        """
    else:
        gates = f"gates_{t} = Gemm ({h}, {weight}, gates_x_{t})"
    affine = f"cell_{t} = Add (half_c_{t + 1}, half_c_{t + 1})"
    if "cell_scale" in per_step:
        affine = f"""
          cell_scaled_{t} = Mul (half_c_{t + 1}, cell_scale_{t})
          cell_{t} = Add (cell_scaled_{t}, cell_shift_{t})
        """
    return f"""
          {gates}
          opened_{t} = Sigmoid (gates_{t})
          i_{t}, f_{t}, g_above_{t}, o_{t} = Split <axis = -1, num_outputs = 4> (opened_{t})
          half_g_{t} = Sub (g_above_{t}, half)
          kept_{t} = Mul (f_{t}, half_c_{t})
          added_{t} = Mul (i_{t}, half_g_{t})
          half_c_{t + 1} = Add (kept_{t}, added_{t})
          {affine}
          squashed_{t} = Tanh (cell_{t})
          {h_wide} = Mul (o_{t}, squashed_{t})
          {parts.narrow(site, h_new, h_wide) if site.reduced else ""}
    """


def _joined(name: str, time: int, result: str) -> str:
    """`result` (T, N, H) of `{name}_1` to `{name}_{T}`, each (N, H), by a tree of Concats."""
    text, values, level = "", [f"{name}_{t + 1}" for t in range(time)], 0
    while len(values) > 1:
        groups = [values[start : start + WIDTH] for start in range(0, len(values), WIDTH)]
        values = [f"{name}_join{level}_{number}" for number in range(len(groups))]
        for value, group in zip(values, groups, strict=True):
            text += f"{value} = Concat <axis = 0> ({', '.join(group)})\n"
        level += 1
    return text + f"{result} = Reshape ({values[0]}, shape_TNH)"


def _whole(site: Site, time: int) -> str:
    return f"""
      {parts.wide(site, "Y_h", f"h_{time}")}
      Y_c = Add (half_c_{time}, half_c_{time})
    """


def _ragged(site: Site) -> str:
    return f"""
      within_1d = Range (zero, T, one)
      within = Unsqueeze (within_1d, last_axis)
      {parts.CLIPPED_LENGTHS}
      {parts.valid("within")}
      {parts.LAST_VALID}
      Y = Where (valid, Y_all, blank)
      {parts.final(site, "Y_h", "Y_all", "h_0")}
      half_c_end = GatherND (half_c_all, where)
      c_end = Add (half_c_end, half_c_end)
      Y_c = Where (started, c_end, c_0)
    """
