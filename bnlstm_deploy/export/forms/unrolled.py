"""The unrolled form: a fixed number of timesteps, one after the other, without control flow."""

import hashlib
import itertools
import math

import onnx

from bnlstm_deploy.export.forms import parts
from bnlstm_deploy.export.forms.parts import Site

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

    Materialized, a timestep is one Gemm with weights of its row's own and no scale. The weights are
    computed from the arrays, each row's once, so that the file stays small; the rows are written
    into the body, so the input `rows` is not looked at.

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
      {parts.rows(site.present, time="padded_T")}
      {parts.gates_x(site.present, x="X_padded" if padding else "X")}
      {parts.RECURRENT_WEIGHT}
      {"".join(_WEIGHT.format(k=k) for k in sorted(set(site.rows[:time]))) if own_weights else ""}
      {"".join(_flat(name) + _split(name, widths, time) for name in per_step)}
      {"".join(_timestep(t, per_step, weight) for t, weight in enumerate(weights))}
      shape_TNH = Concat <axis = 0> (shape_T, shape_NH)
      {_joined("h", time, "Y_all" if ragged else "Y")}
      {_joined("c", time, "c_all") if ragged else ""}
      {_RAGGED if ragged else _WHOLE.format(last=time)}
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


_WEIGHT = """
      k_{k} = Constant <value_ints = [{k}]> ()
      hidden_scale_of_{k} = Gather (hidden_scale, k_{k})
      R_{k} = Mul (R, hidden_scale_of_{k})
"""


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


def _timestep(t: int, per_step: list[str], weight: str) -> str:
    """The nodes of timestep t."""
    if "hidden_scale" in per_step:
        gates = f"""
          {parts.scaled(f"h_scaled_{t}", f"MatMul (h_{t}, {weight})", f"hidden_scale_{t}")}
          gates_{t} = Add (h_scaled_{t}, gates_x_{t})
        """
    else:
        gates = f"gates_{t} = Gemm (h_{t}, {weight}, gates_x_{t})"
    affine = (f"cell_scale_{t}", f"cell_shift_{t}") if "cell_scale" in per_step else None
    return f"""
          {gates}
          {parts.cell(f"c_{t}", f"c_{t + 1}", f"h_{t + 1}", affine, suffix=f"_{t}")}
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


_WHOLE = """
      Y_h = Identity (h_{last})
      Y_c = Identity (c_{last})
"""

_RAGGED = f"""
      within_1d = Range (zero, T, one)
      within = Unsqueeze (within_1d, last_axis)
      {parts.CLIPPED_LENGTHS}
      {parts.valid("within")}
      {parts.LAST_VALID}
      Y = Where (valid, Y_all, blank)
      {parts.final("Y_h", "Y_all", "h_0")}
      {parts.final("Y_c", "c_all", "c_0")}
"""
