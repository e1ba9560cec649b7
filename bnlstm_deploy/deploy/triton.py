"""A model repository for Triton Inference Server."""

import shutil
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bnlstm_deploy.atomic import replacing_folder
from bnlstm_deploy.deploy.interface import Interface
from bnlstm_deploy.deploy.pbtxt import write
from bnlstm_deploy.deploy.triton_config import Backend, Instance, Message
from bnlstm_deploy.dtypes import NATIVE
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.metadata import Metadata
from bnlstm_deploy.native import available, library_path
from bnlstm_deploy.runtime import Session

VERSION = "1"


class Kernel(NamedTuple):
    """What computes the nodes of a deployed file."""

    library: Path | None
    """The native kernel's, on this machine; None if the function body runs."""
    reason: str
    """Why the function body runs, or empty."""

    def __str__(self) -> str:
        """Return the kernel, and why that one."""
        return f"function body: {self.reason}" if self.library is None else "native kernel"


def find_kernel(session: Session, instance: Instance, *, native: bool = True) -> Kernel:
    """Return what is to compute a file on Triton.

    Args:
        session: The file on this machine's CPU: what runs it natively here does so there.
        instance: Where it is to run.
        native: Whether the native kernel is wanted.
    """
    reason = session.native.reason
    if instance == "gpu":
        reason = _why_not_on_cuda(session.metadata) if native else "native=False"
    if reason:
        return Kernel(None, reason)
    if sys.platform != "linux":
        return Kernel(None, f"Triton runs on Linux, and the library here is for {sys.platform}")
    return Kernel(library_path(), "")


def _why_not_on_cuda(metadata: Metadata) -> str:
    dtypes = NATIVE["cuda"]
    if metadata.dtype not in dtypes:
        return f"the native kernel for CUDA is for {', '.join(dtypes)}, not {metadata.dtype}"
    if metadata.weights:
        return f"the native kernel for CUDA takes no weights in {metadata.weights}"
    if metadata.target != "cuda":
        return f"the file was exported for {metadata.target}; convert it with --target cuda"
    return "" if available() else "this installation has no native kernel"


def server_path(
    library: Path, repository: Path, name: str, backend: Backend, asked: str | None = None
) -> str:
    """Return how config.pbtxt names the native kernel's library, which is beside the ONNX file.

    Args:
        library: The library on this machine.
        repository: The folder into which the model's goes.
        name: The model's.
        backend: The python backend looks beside its model, onnxruntime opens a path as it is.
        asked: The path on the server; by default that on this machine.

    Raises:
        InputError: `asked` is for the python backend, or not absolute.
    """
    if backend == "python":
        if asked is not None:
            raise InputError(
                "a path of the native library is for the onnxruntime backend; leave it out, since "
                "the python one takes the library beside its model"
            )
        return library.name
    if asked is None:
        return str(repository.resolve() / name / VERSION / library.name)
    if not PurePosixPath(asked).is_absolute():
        raise InputError(
            f"the path of the native library is {asked!r}; pass an absolute path, since Triton "
            "would look for any other in the folder that it runs in"
        )
    return asked


def write_repository(
    repository: Path,
    configuration: Message,
    interface: Interface,
    save_model: Callable[[Path], None],
    *,
    library: Path | None = None,
    force: bool = False,
) -> Path:
    """Write one model into a model repository, all of it or nothing.

    Args:
        repository: The folder; made if it does not exist.
        configuration: The fields of config.pbtxt; the model's folder is called by its name.
        interface: The model's tensors.
        save_model: Writes the ONNX file to a path: the exported one for the python backend, a
            copy of it that has the batch first for onnxruntime.
        library: The native kernel's, which is copied beside the ONNX file; None for none.
        force: Whether a model of that name is replaced.

    Returns:
        The model's folder.

    Raises:
        InputError: The model is there already, or the folder cannot be written to.
    """
    folder = repository / str(configuration["name"])
    # Made beside the repository: a server that watches it takes every folder inside for a model.
    place = repository.resolve().parent
    with replacing_folder(folder, place=place, force=force) as new:
        (new / VERSION).mkdir()
        (new / "config.pbtxt").write_text(write(configuration), encoding="utf-8")
        save_model(new / VERSION / "model.onnx")
        if library is not None:
            shutil.copyfile(library, new / VERSION / library.name)
        if configuration["backend"] == "python":
            code = files("bnlstm_deploy.deploy") / "triton_model.py"
            (new / VERSION / "model.py").write_text(code.read_text(encoding="utf-8"))
        else:
            _save_initial(new / "initial_state", interface)
    return folder


def _save_initial(folder: Path, interface: Interface) -> None:
    """Write the initial states that are not 0 as Triton reads them: raw, row by row."""
    for carried in interface.carried:
        if carried.initial.any():
            folder.mkdir(exist_ok=True)
            (folder / carried.input.name).write_bytes(carried.initial.tobytes())
