"""What the bodies of several graph forms have in common, as text for `onnx.parser`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx.parser

from bnlstm_deploy.dtypes import ELEMENT_TYPES, REDUCED
from bnlstm_deploy.exporting.op import DOMAIN, H_LEVELS, NAME, OUTPUTS, Inputs

WEIGHTS = ("weight_ih", "weight_hh")
STORED = "_stored"
"""What ends the names of weights in a body that casts them first."""
SCALES = ("input_scale", "hidden_scale", "cell_scale", "cell_shift")


@dataclass(frozen=True)
class Site:
    """What a form knows of the node that it writes a body for."""

    present: Sequence[str]
    """The inputs that are not left empty, in order."""
    opset: int
    hidden_size: int
    """H."""
    num_rows: int
    """K."""
    rows: tuple[int, ...]
    """(S,), the row of each timestep; 0, 1, ..., K - 1 where the input `rows` is left empty."""
    time: int | None = None
    """T where it is fixed."""
    dtype: str = "float32"
    """Of X, Y and the weights. If it is in REDUCED, all else is float32: a cell state would not
    keep what the forget gate keeps, and folded scales in the hundreds can overflow float16."""

    weights: str | None = None
    """What weights are stored as, if it is another dtype."""

    h_levels: int = 0
    """The node's attribute."""

    @property
    def reduced(self) -> bool:
        """Whether only matrix products are computed in `dtype`."""
        return self.dtype in REDUCED


def overload(form: str, site: Site) -> str:
    """Return the name of a function that depends on form, dtype and inputs left empty only."""
    absent = [name for name in Inputs._fields if name not in site.present]
    dtype = [site.dtype] if site.reduced else [f"{site.weights}_weights"] if site.weights else []
    levels = [f"{site.h_levels}_levels_of_h"] if site.h_levels else []
    return "_".join([form, *dtype, *levels, *(f"no_{name}" for name in absent)])


def function(name: str, site: Site, body: str) -> onnx.FunctionProto:
    """Parse a function with the inputs and outputs of `bnlstm::BNLSTM`.

    Args:
        name: Its overload.
        site: The node that it is for.
        body: Its nodes, in onnx's text format.
    """
    # Callers leave absent inputs at the end out altogether, so the function does, too.
    last = max(Inputs._fields.index(name) for name in site.present)
    formal = {name: name for name in Inputs._fields[: last + 1]}
    casts = ""
    if site.weights:
        formal |= {name: name + STORED for name in WEIGHTS}
        to = ELEMENT_TYPES[site.dtype]
        casts = "\n".join(f"{name} = Cast <to = {to}> ({formal[name]})" for name in WEIGHTS)
    attributes = f"<{H_LEVELS}>" if site.h_levels else ""
    text = f"""
    <domain: "{DOMAIN}", opset_import: ["": {site.opset}]>
    {NAME} {attributes} ({", ".join(formal.values())}) => ({", ".join(OUTPUTS)}) {{
      {casts}
      {_LEVELS.format(levels=site.h_levels) if site.h_levels else ""}
      {body}
    }}
    """
    proto = onnx.parser.parse_function(text)
    proto.overload = name
    return proto


CONSTANTS = """
      zero = Constant <value_int = 0> ()
      one = Constant <value_int = 1> ()
      last_axis = Constant <value_ints = [-1]> ()
      shape_N = Shape <start = 1, end = 2> (X)
      shape_H = Shape <start = 1, end = 2> (weight_hh)
      shape_NH = Concat <axis = 0> (shape_N, shape_H)
      h_0 = Expand (initial_h, shape_NH)
      c_0 = Expand (initial_c, shape_NH)
"""

DYNAMIC_TIME = """
      shape_T = Shape <start = 0, end = 1> (X)
      T = Gather (shape_T, zero)
"""

INPUT_WEIGHT = "W = Transpose <perm = [1, 0]> (weight_ih)"
RECURRENT_WEIGHT = "R = Transpose <perm = [1, 0]> (weight_hh)"


def wide(site: Site, result: str, value: str) -> str:
    """`result` = `value`, an operand or a result of matrix products, in the dtype of all else."""
    cast = f"Cast <to = {ELEMENT_TYPES['float32']}>" if site.reduced else "Identity"
    return f"{result} = {cast} ({value})"


def narrow(site: Site, result: str, value: str) -> str:
    """`result` = `value` in the dtype of matrix products."""
    cast = f"Cast <to = {ELEMENT_TYPES[site.dtype]}>" if site.reduced else "Identity"
    return f"{result} = {cast} ({value})"


def product(site: Site, result: str, x: str, weight: str, scale: str = "") -> str:
    """`result` = `x` times the matrix `weight`, times `scale` unless that is ""."""
    last = f"{result}_unscaled" if scale else result
    first = f"{result}_narrow" if site.reduced else last
    return f"""
      {first} = MatMul ({x}, {weight})
      {wide(site, last, first) if site.reduced else ""}
      {f"{result} = Mul ({last}, {scale})" if scale else ""}
    """


_LEVELS = """
      levels_above = Constant <value_float = {levels}.0> ()
      levels_below = Constant <value_float = -{levels}.0> ()
"""


def hidden_product(site: Site, result: str, h: str, weight: str, scale: str = "") -> str:
    """`result` = the hidden product, for which h may be rounded: a NaN stays one."""
    if not site.h_levels:
        return product(site, result, h, weight, scale)
    return f"""
      {result}_stretched = Mul ({h}, levels_above)
      {result}_rounded = Round ({result}_stretched)
      {result}_levels = Clip ({result}_rounded, levels_below, levels_above)
      {product(site, result, f"{result}_levels", weight, scale)}
    """


def rows(
    present: Sequence[str], tables: Mapping[str, str] | None = None, *, time: str = "T"
) -> str:
    """Row k of everything that depends on the timestep, (T, 1, .) or, for N start steps, (T, N, .).

    Args:
        present: The inputs that are not left empty.
        tables: Names of what takes the place of some of them.
        time: The name of the number of timesteps.
    """
    step = "Add (t, start_step)" if "start_step" in present else "Identity (t)"
    gathered = ["bias", *(name for name in SCALES if name in present)]
    named = tables or {}
    gathers = "\n".join(f"{n}_rows = Gather ({named.get(n, n)}, row)" for n in gathered)
    mapped = "rows" in present
    return f"""
      shape_S = Shape <start = 0, end = 1> ({"rows" if mapped else "bias"})
      t_1d = Range (zero, {time}, one)
      t = Unsqueeze (t_1d, last_axis)
      step = {step}
      last_row = Sub (shape_S, one)
      {"known_step" if mapped else "row"} = Min (step, last_row)
      {"row = Gather (rows, known_step)" if mapped else ""}
      {gathers}
    """


def gates_x(site: Site, *, x: str = "X", weight: str = INPUT_WEIGHT) -> str:
    """The part of the gates that depends on the input `x`, for all timesteps; `weight` makes W."""
    scale = "input_scale_rows" if "input_scale" in site.present else ""
    return f"""
      {weight}
      {product(site, "x_scaled", x, "W", scale)}
      gates_x = Add (x_scaled, bias_rows)
    """


def cell(
    c: str, c_new: str, h_new: str, affine: tuple[str, str] | None = None, *, suffix: str = ""
) -> str:
    """The new cell state and h from the gates.

    Args:
        c: The name of the cell state before.
        c_new: The name of the one after.
        h_new: The name of the new h.
        affine: The names of the scale and the shift between c and h.
        suffix: Of all other names, `gates` among them.
    """
    s = suffix
    scaling = ""
    if affine:
        scaling = f"cell_scaled{s} = Mul ({c_new}, {affine[0]})\n"
        scaling += f"cell{s} = Add (cell_scaled{s}, {affine[1]})"
    return f"""
          i_{s}, f_{s}, g_{s}, o_{s} = Split <axis = -1, num_outputs = 4> (gates{s})
          i{s} = Sigmoid (i_{s})
          f{s} = Sigmoid (f_{s})
          g{s} = Tanh (g_{s})
          o{s} = Sigmoid (o_{s})
          kept{s} = Mul (f{s}, {c})
          added{s} = Mul (i{s}, g{s})
          {c_new} = Add (kept{s}, added{s})
          {scaling}
          squashed{s} = Tanh ({f"cell{s}" if affine else c_new})
          {h_new} = Mul (o{s}, squashed{s})
    """


CLIPPED_LENGTHS = "ends_any = Min (lengths, shape_T)"


def valid(time: str = "t") -> str:
    """Which timesteps `time` (T, 1) are valid, (T, N, 1), and what stands for the others."""
    return f"""
      valid_2d = Less ({time}, lengths)
      valid = Unsqueeze (valid_2d, last_axis)
      float_zero = Constant <value_float = 0.0> ()
      blank = CastLike (float_zero, X)
    """


STARTED = """
      ends = Expand (ends_any, shape_N)
      started_1d = Greater (ends, zero)
      started = Unsqueeze (started_1d, last_axis)
"""

# Indices of timestep length - 1 of each stream, into (T, N, .).
LAST_VALID = f"""
      {STARTED}
      one_each = Expand (one, shape_N)
      n_1d = CumSum <exclusive = 1> (one_each, zero)
      n = Unsqueeze (n_1d, last_axis)
      end = Sub (ends, one)
      end_2d = Unsqueeze (end, last_axis)
      where = Concat <axis = -1> (end_2d, n)
"""


def final(site: Site, result: str, sequence: str, initial: str) -> str:
    """`result` = the last valid timestep of `sequence`; `initial` for streams of length 0."""
    at_end = f"{initial.removesuffix('_0')}_end"
    to_wide = initial == "h_0" and site.reduced
    picked = f"{at_end}_narrow" if to_wide else at_end
    return f"""
      {picked} = GatherND ({sequence}, where)
      {wide(site, at_end, picked) if to_wide else ""}
      {result} = Where (started, {at_end}, {initial})
    """
