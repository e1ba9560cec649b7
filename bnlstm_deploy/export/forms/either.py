"""The form for a few streams or for many: the LSTM operator or a Scan, chosen as the graph runs."""

import re

import onnx

from bnlstm_deploy.export.forms import lstm, parts, scan
from bnlstm_deploy.export.forms.parts import Site

FORM = "lstm-or-scan"

WORK = 32 * 32 * 32
"""N * H * H up to which the LSTM operator is the faster: what its identity multiplies, in effect.

Measured on a CPU, docs/forms.md; the two are within 10 % of each other around it.
"""


def most_streams(hidden_size: int) -> int:
    """Return how many streams the LSTM operator is the faster for; 0 for none."""
    return WORK // hidden_size**2


def function(site: Site) -> onnx.FunctionProto:
    """Write the body of `bnlstm::BNLSTM` as an If over the number of streams.

    Where only the input's part of the gates changes over time, the form `lstm` sends it through an
    identity of 4H x 4H, which costs little for few streams and small H, and the form `scan` costs a
    fixed time a timestep. Both start from the same part of the gates.

    Args:
        site: The node that the body is for, without hidden and cell scale.
    """
    body = f"""
      {parts.CONSTANTS}
      {parts.DYNAMIC_TIME}
      {parts.rows(site.present)}
      {parts.gates_x(site)}
      most = Constant <value_int = {most_streams(site.hidden_size)}> ()
      streams = Squeeze (shape_N)
      are_few = LessOrEqual (streams, most)
      Y, Y_h, Y_c = If (are_few) <
        then_branch = few () => (Y_few, Y_h_few, Y_c_few) {{
          {_renamed(lstm.operator(site), "few")}
        }},
        else_branch = many () => (Y_many, Y_h_many, Y_c_many) {{
          {_renamed(scan.recurrence(site, own_weights=False), "many")}
        }}
      >
    """
    return parts.function(parts.overload(f"{FORM}_{site.hidden_size}", site), site, body)


def _renamed(text: str, branch: str) -> str:
    """Give the results names of the branch: those of the If are taken."""
    return re.sub(r"\b(Y|Y_h|Y_c)\b", rf"\1_{branch}", text)
