"""How files are opened."""

import onnxruntime as ort

from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session
from tests.models import randomize


def test_an_optimizer_that_ends_the_process_is_switched_off(tmp_path, monkeypatch):
    """On CPUs, to some graphs of float16: which ones differs between versions."""
    path = tmp_path / "m.onnx"
    export(randomize(BNLSTM(3, 4, max_length=2)), path)
    open_session, asked = ort.InferenceSession, []

    def opening(*arguments, **options):
        asked.append(options["disabled_optimizers"])
        return open_session(*arguments, **options)

    monkeypatch.setattr(ort, "InferenceSession", opening)
    Session(path, native=False)
    assert [list(names) for names in asked] == [["FuseFp16InitializerToFp32NodeTransformer"]]
