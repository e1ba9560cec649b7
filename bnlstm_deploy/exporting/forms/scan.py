"""The Scan form: one ONNX Scan over time, for any batch size and length."""

import onnx

from bnlstm_deploy.exporting.forms import parts
from bnlstm_deploy.exporting.forms.parts import SCALES, Site

FORM = "scan"


def function(site: Site, *, materialized: bool) -> onnx.FunctionProto:
    """Write the body of `bnlstm::BNLSTM` as a Scan.

    The input product, its scale and the bias are computed for all timesteps at once; only what
    depends on h and c is inside the Scan. The statistics rows are gathered before it: with one
    start step they are (T, 1, .), shared by the streams; with N start steps they are (T, N, .).

    Materialized, the Scan runs over weights of its own for each timestep, (T, H, 4H), instead of
    scales. They are computed from the arrays, so that the file stays small, and not for N start
    steps, which have no weights in common.

    Holding c and blanking Y past a stream's length costs 5 to 10 % of a timestep. So with lengths
    there are two Scans, and an If that takes the plain one when every stream is as long as X.

    Args:
        site: The node that the body is for; without `start_step` if it is materialized.
        materialized: Whether the hidden scale is multiplied into the weights.
    """
    own_weights = materialized and "hidden_scale" in site.present
    body = f"""
      {parts.CONSTANTS}
      {parts.DYNAMIC_TIME}
      {parts.rows(site.present)}
      {parts.gates_x(site)}
      {_weights(site) if own_weights else ""}
      {_recurrence(site, own_weights=own_weights)}
    """
    form = f"{FORM}_materialized" if materialized else FORM
    return parts.function(parts.overload(form, site), site, body)


def _recurrence(site: Site, *, own_weights: bool) -> str:
    """The Scan from the gates' part of X on, or the choice between two of them."""
    if "lengths" in site.present:
        return _chosen_scan(site, own_weights=own_weights)
    return _scan(site, "Y", "Y_h", "Y_c", own_weights=own_weights)


def _weights(site: Site) -> str:
    """Of each row, and then of each timestep: `row` is (T, 1), the Scan takes (T, H, 4H)."""
    return f"""
      {parts.RECURRENT_WEIGHT}
      {parts.wide(site, "R_wide", "R")}
      middle_axis = Constant <value_ints = [1]> ()
      hidden_scale_3d = Unsqueeze (hidden_scale, middle_axis)
      R_scaled = Mul (R_wide, hidden_scale_3d)
      {parts.narrow(site, "R_of_row", "R_scaled")}
      row_1d = Squeeze (row, last_axis)
      R_rows = Gather (R_of_row, row_1d)
    """


def _chosen_scan(site: Site, *, own_weights: bool) -> str:
    """The recurrence without a mask where no stream is shorter than X, else with one."""
    ragged, whole = (
        _scan(site, f"Y_{branch}", h, f"Y_c_{branch}", own_weights=own_weights, masked=masked)
        for branch, h, masked in (("ragged", "h_last", True), ("whole", "Y_h_whole", False))
    )
    return f"""
      {parts.CLIPPED_LENGTHS}
      shortest = ReduceMin <keepdims = 0> (ends_any)
      is_short = Less (shortest, T)
      Y, Y_h, Y_c = If (is_short) <
        then_branch = ragged () => (Y_ragged, Y_h_ragged, Y_c_ragged) {{
          {parts.valid()}
          {ragged}
          {parts.LAST_VALID}
          {parts.final(site, "Y_h_ragged", "Y_ragged", "h_0")}
        }},
        else_branch = whole () => (Y_whole, Y_h_whole, Y_c_whole) {{
          {whole}
        }}
      >
    """


def _scan(
    site: Site, y: str, h_last: str, c_last: str, *, own_weights: bool, masked: bool = False
) -> str:
    """The recurrence; the three names are those of its results."""
    per_step = ["R"] if own_weights else []
    per_step += [
        name
        for name in SCALES[1:]
        if name in site.present and not (own_weights and name == "hidden_scale")
    ]
    body_inputs = ["h", "c", "gates_x_t", *(f"{name}_t" for name in per_step)]
    scan_inputs = [
        "h_start" if site.reduced else "h_0",
        "c_0",
        "gates_x",
        *(f"{name}_rows" for name in per_step),
    ]
    if masked:
        body_inputs.append("valid_t")
        scan_inputs.append("valid")
    c_t = "c_t" if masked else "c_new"
    weight = "R_t" if own_weights else "R"
    h_new, h_end = ("h_wide", f"{h_last}_narrow") if site.reduced else ("h_new", h_last)
    hidden_scale = "hidden_scale_t" if "hidden_scale" in per_step else ""
    affine = ("cell_scale_t", "cell_shift_t") if "cell_scale" in site.present else None
    # ONNX Runtime packs a weight for its matrix product only if the graph around the Scan has it,
    # so each branch has its own.
    return f"""
      {"" if own_weights else parts.RECURRENT_WEIGHT}
      {parts.narrow(site, "h_start", "h_0") if site.reduced else ""}
      {h_end}, {c_last}, {y} = Scan <
        num_scan_inputs = {len(scan_inputs) - 2},
        body = timestep ({", ".join(body_inputs)}) => (h_new, c_new, y) {{
          {parts.hidden_product(site, "h_scaled", "h", weight, hidden_scale)}
          gates = Add (h_scaled, gates_x_t)
          {parts.cell("c", c_t, h_new, affine)}
          {parts.narrow(site, "h_new", h_new) if site.reduced else ""}
          {"c_new = Where (valid_t, c_t, c)" if masked else ""}
          y = {"Where (valid_t, h_new, blank)" if masked else "Identity (h_new)"}
        }}
      > ({", ".join(scan_inputs)})
      {parts.wide(site, h_last, h_end) if site.reduced else ""}
    """
