"""Files and folders that appear whole or not at all, and replace nothing that they must not.

What is being written is in a hidden folder beside its place, which is locked for as long. Nothing
but a kill or a power cut leaves such a folder behind; it has no lock then, and whoever writes to
the same place next removes it.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from bnlstm_deploy.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has none, so that nobody can tell there what was left behind
    fcntl = None  # type: ignore[assignment]

MARK = ".bnlstm-"
"""In the names of hidden folders, before what tells them apart."""

SOON = 60.0
"""Seconds within which whoever makes a hidden folder has locked it."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_free(path: Path, *, force: bool = False) -> None:
    """Check that there is nothing of that name yet, unless it is a file to be replaced by force.

    Raises:
        InputError: There is.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; name a file in it")
    if not force:
        raise InputError(f"{path} exists; choose another name, or replace it by force")
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a device or the like"
        raise InputError(f"{path} is {kind}, and only files are replaced; name the file itself")


def check_writable(path: Path, *, force: bool = False, inputs: Iterable[Path | None] = ()) -> None:
    """Check, before work whose result goes there, that a file may be written to `path`.

    Args:
        path: The file.
        force: Whether it is replaced if it exists.
        inputs: What the work reads: files, and folders whose files are all of that.

    Raises:
        InputError: It exists, is no file, or is one of the inputs; its folder does not exist, or
            cannot be written to.
    """
    check_free(path, force=force)
    check_other(path, inputs)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} cannot be written; choose a folder that exists and may be written to"
        )


def check_other(path: Path, inputs: Iterable[Path | None]) -> None:
    """Check that a file or folder that is to be replaced is none that the work reads.

    Raises:
        InputError: It is.
    """
    if not path.exists():
        return
    for given in inputs:
        for read in () if given is None or not given.exists() else (given, *_inside(given)):
            if path.samefile(read):
                raise InputError(f"{path} is what this command reads; choose another name")


@contextlib.contextmanager
def replacing(path: Path, *, force: bool = True) -> Iterator[Path]:
    """Yield a path to write to; give the file the name `path` on success, remove it on error.

    Args:
        path: The file.
        force: Whether it is replaced if it exists. If not, and another process makes it meanwhile,
            that one stays.

    Raises:
        InputError: It cannot be written, or there is what is not to be replaced.
    """
    with _place(path, path.parent) as place:
        new = place / path.name
        with _naming(path, FULL):
            yield new
        check_free(path, force=force)
        with _naming(path):
            if force:
                new.replace(path)
            else:
                _link(new, path)


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
    check_free_folder(folder, force=force)
    with contextlib.suppress(OSError):  # what is wrong shows when something is made in it
        folder.parent.mkdir(exist_ok=True)
    with _place(folder, (place or folder.parent).resolve()) as temporary:
        new = temporary / "new"  # _place's own is private
        with _naming(folder, FULL):
            new.mkdir()
            yield new
        with _naming(folder):
            if force and folder.exists():
                folder.rename(temporary / "old")
            new.rename(folder)


def check_free_folder(
    folder: Path, *, force: bool = False, inputs: Iterable[Path | None] = ()
) -> None:
    """Check that there is nothing of that name yet, unless it is a folder to be replaced by force.

    Args:
        folder: The folder.
        force: Whether it is replaced if it exists.
        inputs: Files that must not be in it.

    Raises:
        InputError: There is.
    """
    if not os.path.lexists(folder):
        return
    if not force or folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder} exists; choose another name, or replace a folder by force")
    for read in filter(None, inputs):
        if folder.resolve() in read.resolve().parents:
            raise InputError(f"{folder} holds {read}, which is read; choose another name")


def _inside(path: Path) -> Iterable[Path]:
    return filter(Path.exists, path.iterdir()) if path.is_dir() else ()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for files that nobody keeps, among the system's temporary ones."""
    with _place(Path("scratch"), Path(tempfile.gettempdir())) as place:
        yield place


@contextlib.contextmanager
def _place(path: Path, beside: Path) -> Iterator[Path]:
    """Make a private folder, locked, to write something in; remove those without a lock."""
    prefix = f".{path.name}{MARK}"
    _remove_left(beside, prefix)
    place = beside / f"{prefix}{secrets.token_hex(8)}"
    try:
        with _naming(path):
            place.mkdir(0o700)
        with _locked(place, wait=True):
            yield place
    finally:
        try:
            shutil.rmtree(place, ignore_errors=True)
        finally:  # a signal may have stopped it
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _locked(place: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder; yield whether it was to be had."""
    if fcntl is None:
        yield False
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:  # somebody has it, or the file system knows no locks
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _remove_left(beside: Path, prefix: str) -> None:
    """Remove what a process that was killed has left behind."""
    try:
        left = [path for path in beside.iterdir() if path.name.startswith(prefix)]
    except OSError:
        return
    for place in left:
        with contextlib.suppress(OSError), _locked(place, wait=False) as free:
            # A folder that was made just now, and is empty, is about to be locked by its owner.
            old = time.time() - place.stat().st_mtime > SOON
            if free and (old or any(place.iterdir())):
                shutil.rmtree(place, ignore_errors=True)


def _link(new: Path, path: Path) -> None:
    """Give a file its name unless there is one of that name.

    Raises:
        InputError: There is.
    """
    try:
        try:
            path.hardlink_to(new)
        except FileExistsError:
            raise
        except OSError:  # a file system without links: claim the name, then replace what claims it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            new.replace(path)
    except FileExistsError as error:
        raise InputError(
            f"{path} exists, for another process has made it; choose another name"
        ) from error


@contextlib.contextmanager
def _naming(path: Path, numbers: Collection[int] = tuple(errno.errorcode)) -> Iterator[None]:
    """Name what was to be written in errors of the system, those of some numbers only.

    Raises:
        InputError: In their place.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
        raise InputError(
            f"{path} cannot be written ({error.strerror}); choose a folder that exists, may be "
            "written to and has room"
        ) from error
