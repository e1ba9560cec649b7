"""A model repository for Triton Inference Server."""

import shutil
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from bnlstm_deploy.deploy.interface import Interface
from bnlstm_deploy.deploy.pbtxt import write
from bnlstm_deploy.deploy.triton_config import Backend, Message
from bnlstm_deploy.errors import InputError

VERSION = "1"


def write_repository(
    repository: Path,
    configuration: Message,
    interface: Interface,
    save_model: Callable[[Path], None],
    *,
    force: bool = False,
) -> Path:
    """Write one model into a model repository, all of it or nothing.

    Args:
        repository: The folder; made if it does not exist.
        configuration: The fields of config.pbtxt; the model's folder is called by its name.
        interface: The model's tensors.
        save_model: Writes the ONNX file to a path: the exported one for the python backend, a
            copy of it that has the batch first for onnxruntime.
        force: Whether a model of that name is replaced.

    Returns:
        The model's folder.

    Raises:
        InputError: The model is there already, or the folder cannot be written to.
    """
    folder = repository / str(configuration["name"])
    if folder.exists() and not force:
        raise InputError(f"{folder} exists; choose another --name, or replace it with --force")
    try:
        repository.mkdir(exist_ok=True)
        place = repository.resolve()
        # Beside the repository: a server that watches it takes every folder inside for a model.
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise _cannot_write(repository, error) from error
    try:
        new = temporary / "new"
        (new / VERSION).mkdir(parents=True)
        (new / "config.pbtxt").write_text(write(configuration), encoding="utf-8")
        save_model(new / VERSION / "model.onnx")
        if configuration["backend"] == Backend.python:
            code = files("bnlstm_deploy.deploy") / "triton_model.py"
            (new / VERSION / "model.py").write_text(code.read_text(encoding="utf-8"))
        else:
            _save_initial(new / "initial_state", interface)
        try:
            if folder.exists():
                folder.rename(temporary / "old")
            new.rename(folder)
        except OSError as error:  # such as a repository that is a file system of its own
            raise _cannot_write(repository, error) from error
    finally:
        shutil.rmtree(temporary)
    return folder


def _cannot_write(repository: Path, error: OSError) -> InputError:
    return InputError(
        f"{repository} cannot be written ({error.strerror}); choose a folder inside of one that "
        "exists and may be written to"
    )


def _save_initial(folder: Path, interface: Interface) -> None:
    """Write the initial states that are not 0 as Triton reads them: raw, row by row."""
    for carried in interface.carried:
        if carried.initial.any():
            folder.mkdir(exist_ok=True)
            (folder / carried.input.name).write_bytes(carried.initial.tobytes())
