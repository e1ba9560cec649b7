"""The graph forms: each writes a body for `bnlstm::BNLSTM` in standard ONNX operators."""

import onnx

from bnlstm_deploy.exporting.forms import lstm, scan, unrolled
from bnlstm_deploy.exporting.forms.parts import Site

FACTORED = "factored"
MATERIALIZED = "materialized"


def function(form: str, folding: str, site: Site) -> onnx.FunctionProto:
    """Write the body of `bnlstm::BNLSTM` in a form and a folding, which must suit the site."""
    materialized = folding == MATERIALIZED
    if form == lstm.FORM:
        return lstm.function(site)
    if form == unrolled.FORM:
        return unrolled.function(site, materialized=materialized)
    return scan.function(site, materialized=materialized)
