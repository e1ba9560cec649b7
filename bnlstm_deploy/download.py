"""A model's folder from the Hugging Face hub, or from its cache on this machine."""

from pathlib import Path

from bnlstm_deploy.errors import InputError
from bnlstm_deploy.extras import require

SCHEME = "hf:"
"""Before a hub id, where a path could be meant."""

FILES = ["config.json", "model.safetensors", "model.onnx", "README.md"]


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
        MissingExtraError: huggingface_hub is not installed.
    """
    folder = Path(model_id)
    if folder.is_dir():
        return folder
    require("huggingface_hub", extra="hub")
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        found = snapshot_download(
            str(model_id),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=FILES,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InputError(
            f"{model_id} is no folder, and the hub gives none by that id: {str(error).strip()}"
        ) from error
    return Path(found)


def is_hub_id(path: str | Path) -> bool:
    """Return whether `hf:someone/digits` is given, not a path."""
    return str(path).startswith(SCHEME)


def local(path: str | Path) -> Path:
    """Return a path as it is, and of `hf:someone/digits` or `hf:someone/digits@revision` a folder.

    Raises:
        InputError: No such repository within reach.
        MissingExtraError: huggingface_hub is not installed.
    """
    if not is_hub_id(path):
        return Path(path)
    model_id, _, revision = str(path).removeprefix(SCHEME).strip("/").partition("@")
    return download(model_id, revision=revision or None)
