"""The lstm form: ONNX's own LSTM operator, where the fold is an ordinary LSTM."""

import onnx

from bnlstm_deploy.exporting.forms import parts
from bnlstm_deploy.exporting.forms.parts import Site

FORM = "lstm"

INT32 = int(onnx.TensorProto.INT32)


def function(site: Site) -> onnx.FunctionProto:
    """Write the body of `bnlstm::BNLSTM` as one LSTM node.

    That is exact for nodes without hidden and cell scale. If all timesteps have one row, X goes in
    as it is. Else the input product, its scale and the bias are computed for all timesteps at once,
    and go in through an input weight that is the identity.

    The gates are put from the operator's order i, f, g, o into that of ONNX, i, o, f, c, here and
    not in the arrays. ONNX Runtime does it once, when it loads the graph.

    Args:
        site: The node that the body is for.
    """
    constant = site.num_rows == 1
    body = f"""
      {parts.CONSTANTS}
      {parts.DYNAMIC_TIME}
      {"" if constant else parts.rows(site.present) + parts.gates_x(site)}
      {_operator(site)}
    """
    form = f"{FORM}_{site.hidden_size}{'' if constant else '_stepwise'}"
    return parts.function(parts.overload(form, site), site, body)


def _operator(site: Site) -> str:
    """The LSTM node and what leads to it, from the gates' part of X or, with one row, from X."""
    ragged, constant = "lengths" in site.present, site.num_rows == 1
    return f"""
      first_axis = Constant <value_ints = [0]> ()
      {_CONSTANT if constant else _STEPWISE}
      {_reordered("input_weight", axis=0)}
      {_reordered("weight_hh", axis=0)}
      {_reordered("gate_bias", axis=1)}
      LSTM_W = Unsqueeze (input_weight_iofc, first_axis)
      LSTM_R = Unsqueeze (weight_hh_iofc, first_axis)
      float_zero = Constant <value_float = 0.0> ()
      no_bias_1d = CastLike (float_zero, bias)
      bias_shape = Shape (gate_bias)
      no_bias = Expand (no_bias_1d, bias_shape)
      B = Concat <axis = 1> (gate_bias_iofc, no_bias)
      h_0_3d = Unsqueeze (h_0, first_axis)
      c_0_3d = Unsqueeze (c_0, first_axis)
      {_LENGTHS if ragged else ""}
      Y_4d, h_3d, c_3d = LSTM <hidden_size = {site.hidden_size}>
        (LSTM_X, LSTM_W, LSTM_R, B, {"valid_steps" if ragged else ""}, h_0_3d, c_0_3d)
      direction_axis = Constant <value_ints = [1]> ()
      Y = Squeeze (Y_4d, direction_axis)
      {"h_last" if ragged else "Y_h"} = Squeeze (h_3d, first_axis)
      {"c_last" if ragged else "Y_c"} = Squeeze (c_3d, first_axis)
      {_FINALS if ragged else ""}
    """


_CONSTANT = """
      LSTM_X = Identity (X)
      input_weight = Identity (weight_ih)
      gate_bias = Identity (bias)
"""


# The gates' part of X as the LSTM's X; its bias is 0 then, as it is part of that.
_STEPWISE = """
      LSTM_X = Identity (gates_x)
      shape_4H = Shape <start = 0, end = 1> (weight_hh)
      shape_square = Concat <axis = 0> (shape_4H, shape_4H)
      square_float = ConstantOfShape (shape_square)
      square = CastLike (square_float, bias)
      input_weight = EyeLike (square)
      zero_bias = CastLike (zero, bias)
      one_1d = Constant <value_ints = [1]> ()
      shape_1_4H = Concat <axis = 0> (one_1d, shape_4H)
      gate_bias = Expand (zero_bias, shape_1_4H)
"""


def _reordered(name: str, *, axis: int) -> str:
    """`{name}_iofc` of `name`, whose axis of 4H has the gates in the order i, f, g, o."""
    return f"""
      {name}_i, {name}_f, {name}_g, {name}_o = Split <axis = {axis}, num_outputs = 4> ({name})
      {name}_iofc = Concat <axis = {axis}> ({name}_i, {name}_o, {name}_f, {name}_g)
    """


_LENGTHS = f"""
      {parts.CLIPPED_LENGTHS}
      {parts.STARTED}
      valid_steps = Cast <to = {INT32}> (ends)
"""

# ONNX Runtime gives 0 for streams of length 0.
_FINALS = """
      Y_h = Where (started, h_last, h_0)
      Y_c = Where (started, c_last, c_0)
"""
