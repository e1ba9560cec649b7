"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bnlstm_deploy.errors import InputError


def check_writable(path: Path) -> None:
    """Check, before work whose result goes there, that a file may be written to `path`.

    Raises:
        InputError: It is a folder, its folder does not exist, or that cannot be written to.
    """
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
