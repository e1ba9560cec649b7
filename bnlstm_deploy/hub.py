"""Models on the Hugging Face hub: `BNLSTM` and `BNLSTMModel` with huggingface_hub's mixin.

A repository, or a folder of that shape, holds config.json and model.safetensors, which `load` reads
as well; model.onnx, checked against them; and a card of measured facts.
"""

from pathlib import Path
from typing import Self

from bnlstm_deploy import nn
from bnlstm_deploy.checkpoint import load_checkpoint, save_checkpoint
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.extras import require

require("huggingface_hub", extra="hub")

from huggingface_hub import ModelHubMixin, snapshot_download  # noqa: E402
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: E402

from bnlstm_deploy.exporting import export  # noqa: E402
from bnlstm_deploy.verification import record, verify  # noqa: E402

ONNX = "model.onnx"
CARD = "README.md"


def download(
    model_id: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Return the folder of a model: a local one, or that of a hub id, downloaded if need be.

    Raises:
        InputError: No such folder, and no such repository within reach.
    """
    folder = Path(model_id)
    if folder.is_dir():
        return folder
    try:
        found = snapshot_download(
            str(model_id),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=["config.json", "model.safetensors", ONNX, CARD],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InputError(
            f"{model_id} is no folder, and the hub gives none by that id: {str(error).strip()}"
        ) from error
    return Path(found)


class _Hub(ModelHubMixin, library_name="bnlstm-deploy", license="apache-2.0"):
    """Saving and loading, shared by both classes."""

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, nn.BNLSTM | nn.BNLSTMModel)
        save_checkpoint(self, save_directory, force=True)
        path = save_directory / ONNX
        metadata = export(self, path, force=True)
        report = verify(self, path, search_seconds=0)
        if not report.passed:
            path.unlink()
            raise InputError(f"{path} does not compute what the model computes: {report}")
        record(report, path)
        size = (save_directory / "model.safetensors").stat().st_size
        (save_directory / CARD).write_text(
            "---\nlicense: apache-2.0\nlibrary_name: bnlstm-deploy\ntags: [bn-lstm, onnx]\n---\n"
            f"# {type(self).__name__}\n\nA batch-normalized LSTM (Cooijmans et al. 2016, arXiv "
            f"1603.09025).\n\n    {self}\n\n"
            "| | |\n|---|---|\n"
            f"| parameters | {sum(p.numel() for p in self.parameters()):,} |\n"
            f"| model.safetensors | {size / 1e6:.2f} MB |\n"
            f"| {ONNX} | {path.stat().st_size / 1e6:.2f} MB, {metadata.numbers}, form "
            f"{metadata.form}, {metadata.steps} steps of statistics |\n"
            f"| verified | {report} |\n"
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: object,
    ) -> Self:
        """Load a model from the hub, from its cache, or from a folder.

        Args:
            pretrained_model_name_or_path: A hub id such as "someone/digits", or a folder.
            force_download: Whether to fetch what is in the cache already.
            token: Of the hub.
            cache_dir: The hub's cache, where it is not in its usual place.
            local_files_only: Whether to take what is in the cache and ask no network.
            revision: A branch, tag or commit.
            model_kwargs: None: a model is what its config.json says.

        Raises:
            InputError: No such model, or one of the other class.
        """
        if model_kwargs:
            raise InputError(
                f"{sorted(model_kwargs)} cannot be changed: a model is what its config.json says"
            )
        model_id = pretrained_model_name_or_path
        folder = download(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        model = load_checkpoint(folder)
        if not issubclass(cls, type(model)):
            raise InputError(
                f"{model_id} holds a {type(model).__name__}; load it with "
                f"bnlstm_deploy.hub.{type(model).__name__}.from_pretrained"
            )
        new = object.__new__(cls)
        new.__dict__.update(model.__dict__)  # a module is its dict: the same, of another class
        return new


class BNLSTM(_Hub, nn.BNLSTM):
    """`bnlstm_deploy.BNLSTM` with from_pretrained, save_pretrained and push_to_hub."""


class BNLSTMModel(_Hub, nn.BNLSTMModel):
    """`bnlstm_deploy.BNLSTMModel` with from_pretrained, save_pretrained and push_to_hub."""
