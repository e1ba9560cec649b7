"""Files and folders that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bnlstm_deploy.errors import InputError


def check_free(path: Path, *, force: bool = False) -> None:
    """Check that there is nothing of that name yet, unless it is to be replaced by force.

    Raises:
        InputError: There is.
    """
    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another name, or replace it by force")


def check_writable(path: Path, *, force: bool = True) -> None:
    """Check, before work whose result goes there, that a file may be written to `path`.

    Args:
        path: The file.
        force: Whether it is replaced if it exists.

    Raises:
        InputError: It exists, is a folder, its folder does not exist, or that cannot be written to.
    """
    check_free(path, force=force)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} cannot be written; choose a folder that exists and may be written to"
        )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on error.

    Raises:
        InputError: The folder does not exist, or cannot be written to.
    """
    try:
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); choose a folder that exists and may be "
            "written to"
        ) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; give it the permissions of an ordinary new file
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(
    folder: Path, *, place: Path | None = None, force: bool = False
) -> Iterator[Path]:
    """Yield an empty folder; rename it to `folder` on success, remove it on error.

    The folder above is made if it is not there.

    Args:
        folder: What it becomes.
        place: Where to make it, on the same file system; beside `folder` by default.
        force: Whether `folder` is replaced if it exists.

    Raises:
        InputError: `folder` exists, or cannot be made.
    """
    check_free(folder, force=force)
    try:
        folder.parent.mkdir(exist_ok=True)
        where = (place or folder.parent).resolve()
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=where))
    except OSError as error:
        raise _cannot_make(folder, error) from error
    try:
        new = temporary / "new"  # mkdtemp makes its own private
        new.mkdir()
        yield new
        try:
            if folder.exists():
                folder.rename(temporary / "old")
            new.rename(folder)
        except OSError as error:
            raise _cannot_make(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _cannot_make(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder} cannot be made ({error.strerror}); choose a folder inside of one that may be "
        "written to"
    )
