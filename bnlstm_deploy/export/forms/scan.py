"""The Scan form: one ONNX Scan over time, for any batch size and length."""

from collections.abc import Collection

import onnx
import onnx.parser

from bnlstm_deploy.export.op import DOMAIN, NAME, OUTPUTS, Inputs

FORM = "scan"

SCALES = ("input_scale", "hidden_scale", "cell_scale", "cell_shift")


def overload(present: Collection[str]) -> str:
    """Return the name of the function for nodes that have the inputs `present`."""
    absent = [name for name in Inputs._fields if name not in present]
    return "_".join([FORM, *(f"no_{name}" for name in absent)])


def function(present: Collection[str], opset: int) -> onnx.FunctionProto:
    """Write the body of `bnlstm::BNLSTM` for nodes that have the inputs `present`.

    The input product, its scale and the bias are computed for all timesteps at once; only what
    depends on h and c is inside the Scan. The statistics rows are gathered before it: with one
    start step they are (T, 1, .), shared by the streams; with N start steps they are (T, N, .).

    Holding c and blanking Y past a stream's length costs 5 to 10 % of a timestep. So with lengths
    there are two Scans, and an If that takes the plain one when every stream is as long as X.
    """
    # Callers leave absent inputs at the end out altogether, so the function does, too.
    last = max(Inputs._fields.index(name) for name in present)
    text = f"""
    <domain: "{DOMAIN}", opset_import: ["": {opset}]>
    {NAME} ({", ".join(Inputs._fields[: last + 1])}) => ({", ".join(OUTPUTS)}) {{
      {_SHAPES}
      {_rows(present)}
      {_gates_x(present)}
      {_chosen_scan(present) if "lengths" in present else _scan(present, "Y", "Y_h", "Y_c")}
    }}
    """
    proto = onnx.parser.parse_function(text)
    proto.overload = overload(present)
    return proto


_SHAPES = """
      zero = Constant <value_int = 0> ()
      one = Constant <value_int = 1> ()
      last_axis = Constant <value_ints = [-1]> ()
      shape_T = Shape <start = 0, end = 1> (X)
      shape_N = Shape <start = 1, end = 2> (X)
      shape_H = Shape <start = 1, end = 2> (weight_hh)
      shape_S = Shape <start = 0, end = 1> (bias)
      shape_NH = Concat <axis = 0> (shape_N, shape_H)
      h_0 = Expand (initial_h, shape_NH)
      c_0 = Expand (initial_c, shape_NH)
"""


def _rows(present: Collection[str]) -> str:
    """Row k = min(start_step + t, S - 1) of everything that depends on the timestep."""
    step = "Add (t, start_step)" if "start_step" in present else "Identity (t)"
    gathered = ["bias", *(name for name in SCALES if name in present)]
    gathers = "\n".join(f"{name}_rows = Gather ({name}, row)" for name in gathered)
    return f"""
      T = Squeeze (shape_T)
      t_1d = Range (zero, T, one)
      t = Unsqueeze (t_1d, last_axis)
      step = {step}
      last_row = Sub (shape_S, one)
      row = Min (step, last_row)
      {gathers}
    """


def _gates_x(present: Collection[str]) -> str:
    """The part of the gates that depends on X, for all timesteps."""
    return f"""
      W = Transpose <perm = [1, 0]> (weight_ih)
      {_scaled("x_scaled", "MatMul (X, W)", "input_scale_rows" if "input_scale" in present else "")}
      gates_x = Add (x_scaled, bias_rows)
    """


def _chosen_scan(present: Collection[str]) -> str:
    """The recurrence without a mask where no stream is shorter than X, else with one."""
    return f"""
      ends_any = Min (lengths, shape_T)
      shortest = ReduceMin <keepdims = 0> (ends_any)
      is_short = Less (shortest, T)
      Y, Y_h, Y_c = If (is_short) <
        then_branch = ragged () => (Y_ragged, Y_h_ragged, Y_c_ragged) {{
          {_MASK}
          {_scan(present, "Y_ragged", "h_last", "Y_c_ragged", masked=True)}
          {_FINAL_H}
        }},
        else_branch = whole () => (Y_whole, Y_h_whole, Y_c_whole) {{
          {_scan(present, "Y_whole", "Y_h_whole", "Y_c_whole")}
        }}
      >
    """


def _scan(
    present: Collection[str], y: str, h_last: str, c_last: str, *, masked: bool = False
) -> str:
    """The recurrence; the last three names are those of its results."""
    rows = [name for name in SCALES[1:] if name in present]
    hidden_scale = "hidden_scale_t" if "hidden_scale" in present else ""
    affine = "cell_scale" in present
    body_inputs = ["h", "c", "gates_x_t", *(f"{name}_t" for name in rows)]
    scan_inputs = ["h_0", "c_0", "gates_x", *(f"{name}_rows" for name in rows)]
    if masked:
        body_inputs.append("valid_t")
        scan_inputs.append("valid")
    c_t = "c_t" if masked else "c_new"
    return f"""
      R = Transpose <perm = [1, 0]> (weight_hh)
      {h_last}, {c_last}, {y} = Scan <
        num_scan_inputs = {len(scan_inputs) - 2},
        body = timestep ({", ".join(body_inputs)}) => (h_new, c_new, y) {{
          {_scaled("h_scaled", "MatMul (h, R)", hidden_scale)}
          gates = Add (h_scaled, gates_x_t)
          i_, f_, g_, o_ = Split <axis = -1, num_outputs = 4> (gates)
          i = Sigmoid (i_)
          f = Sigmoid (f_)
          g = Tanh (g_)
          o = Sigmoid (o_)
          kept = Mul (f, c)
          added = Mul (i, g)
          {c_t} = Add (kept, added)
          {_scaled("cell_scaled", c_t, "cell_scale_t") if affine else ""}
          {"cell = Add (cell_scaled, cell_shift_t)" if affine else ""}
          squashed = Tanh ({"cell" if affine else c_t})
          h_new = Mul (o, squashed)
          {"c_new = Where (valid_t, c_t, c)" if masked else ""}
          y = {"Where (valid_t, h_new, blank)" if masked else "Identity (h_new)"}
        }}
      > ({", ".join(scan_inputs)})
    """


def _scaled(result: str, value: str, scale: str) -> str:
    """`result` = `value` * `scale`, for `value` a name or a call; without Mul if `scale` is ""."""
    if not scale:
        return f"{result} = {value}"
    if "(" not in value:
        return f"{result} = Mul ({value}, {scale})"
    return f"{result}_unscaled = {value}\n{result} = Mul ({result}_unscaled, {scale})"


_MASK = """
      valid_2d = Less (t, lengths)
      valid = Unsqueeze (valid_2d, last_axis)
      float_zero = Constant <value_float = 0.0> ()
      blank = CastLike (float_zero, X)
"""

# Y at timestep length - 1 of each stream; a stream of length 0 keeps its initial h.
_FINAL_H = """
      ends = Expand (ends_any, shape_N)
      N = Squeeze (shape_N)
      n_1d = Range (zero, N, one)
      n = Unsqueeze (n_1d, last_axis)
      end = Sub (ends, one)
      end_2d = Unsqueeze (end, last_axis)
      where = Concat <axis = -1> (end_2d, n)
      h_end = GatherND (Y_ragged, where)
      started_1d = Greater (ends, zero)
      started = Unsqueeze (started_1d, last_axis)
      Y_h_ragged = Where (started, h_end, h_0)
"""
