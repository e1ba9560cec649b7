"""convert: from a checkpoint to a verified ONNX file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnlstm_deploy.atomic import check_writable, replacing
from bnlstm_deploy.checkpoint import load
from bnlstm_deploy.errors import VerificationError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.verification import Report, record, sample_like, verify

if TYPE_CHECKING:
    from torch import Tensor, nn


def convert(
    checkpoint: "str | Path | nn.Module",
    output: str | Path,
    inputs: "Sequence[Tensor] | None" = None,
    *,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,  # noqa: ANN401
) -> Report:
    """Fold a checkpoint, export it, check the file, and only then give it its name.

        report = bnlstm_deploy.convert("checkpoint", "model.onnx", target="cuda", length=64)

    What `bnlstm-deploy convert` does. For what a checkpoint of other code needs to be told, `load`
    it first and pass the model; `export` writes a file without the check.

    Args:
        checkpoint: Whatever `load` takes, or a model.
        output: The file to write.
        inputs: Example arguments of a model of one's own; see `export`.
        force: Whether to replace an existing file.
        progress: Called during the check; see `verify`.
        options: Those of `export`.

    Returns:
        The report of the check, which is recorded in the file.

    Raises:
        VerificationError: The check fails; there is no file then.
        InputError: The file exists, is the checkpoint, or cannot be written.
        ExportError: The model cannot be exported.
        FoldError: Statistics or weights cannot be folded.
        CheckpointError: The checkpoint cannot be read, or fits no layout.
    """
    output = Path(output)
    if isinstance(checkpoint, str | Path):
        check_writable(output, force=force, inputs=(Path(checkpoint),))
        model: nn.Module = load(checkpoint)
    else:
        check_writable(output, force=force)
        model = checkpoint
    with replacing(output, force=force) as temporary:
        export(model, temporary, inputs, force=True, **options)
        sample = None if inputs is None else sample_like(model, inputs)
        report = verify(model, temporary, sample=sample, search_seconds=0, progress=progress)
        if not report.passed:
            raise VerificationError(
                f"the exported file does not compute what the model computes: {report!r}; "
                "export it to keep it, and verify that file to see why"
            )
        return record(report, temporary)
