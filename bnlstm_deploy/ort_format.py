"""ONNX Runtime's own format, for its minimal builds on phones and small machines."""

import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.inliner

from bnlstm_deploy.atomic import check_writable, replacing
from bnlstm_deploy.errors import ExportError
from bnlstm_deploy.extras import require
from bnlstm_deploy.metadata import INLINED

require("onnxruntime", extra="cpu")

import onnxruntime as ort  # noqa: E402

from bnlstm_deploy.runtime import Session  # noqa: E402

CONFIG = ".required_operators_and_types.config"
"""The end of the name of the operators' list, which ONNX Runtime's build takes."""


def write_ort(model: str | Path, *, force: bool = False) -> tuple[Path, Path]:
    """Write an exported file in ONNX Runtime's own format, and the list of operators it needs.

    Minimal builds of ONNX Runtime load no other format, and have no functions: the bodies of the
    layers' nodes are in their place. Optional inputs stay what they are. The file is kept only if
    it loads and computes what the ONNX file computes, bit for bit.

    Args:
        model: The exported file, MODEL.onnx.
        force: Whether to replace files that are there.

    Returns:
        MODEL.ort, and MODEL.required_operators_and_types.config for the option
        `--include_ops_by_config` of ONNX Runtime's build.

    Raises:
        InputError: A file is there already.
        ExportError: ONNX Runtime cannot write it, or it computes something else.
    """
    model = Path(model)
    path, config = model.with_suffix(".ort"), model.with_suffix(CONFIG)
    for target in (path, config):
        check_writable(target, force=force, inputs=(model,))
    proto = onnx.inliner.inline_local_functions(onnx.load(model))
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, properties | {INLINED: "true"})
    with tempfile.TemporaryDirectory() as folder:
        inlined, written = Path(folder) / "inlined.onnx", Path(folder) / "model.ort"
        onnx.save(proto, inlined)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # no optimization that is for this machine's instructions alone
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(written)
        options.add_session_config_entry("session.save_model_format", "ORT")
        try:
            session = ort.InferenceSession(inlined, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ExportError(f"ONNX Runtime cannot write {path}: {str(error).strip()}") from error
        _check(session, written)
        needed = Path(folder) / "needed.config"
        _list_operators(written, needed)
        needed.write_text(needed.read_text().replace(str(written), path.name))
        for target, made in ((path, written), (config, needed)):
            with replacing(target, force=force) as temporary:
                temporary.write_bytes(made.read_bytes())
    return path, config


def _check(session: ort.InferenceSession, written: Path) -> None:
    loaded = Session(written, native=False)
    time = loaded.metadata.length or loaded.metadata.steps + 1
    numbers = np.random.default_rng(0)
    feeds = {
        value.name: numbers.standard_normal(value.sized({"batch": 2, "time": time})).astype(
            value.dtype or np.float32
        )
        for value in loaded.inputs
    }
    expected = session.run(None, {**loaded.absent, **feeds})
    found = loaded.raw.run(None, {**loaded.absent, **feeds})
    for value, ours, theirs in zip(session.get_outputs(), found, expected, strict=True):
        if not np.array_equal(ours, theirs, equal_nan=True):
            raise ExportError(
                f"{value.name!r} of {written.name} is not what the ONNX file computes"
            )


def _list_operators(written: Path, config: Path) -> None:
    from onnxruntime.tools.ort_format_model import create_config_from_models  # noqa: PLC0415

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it closes no file
            create_config_from_models([written], config, enable_type_reduction=True)
    finally:
        logger.setLevel(level)
