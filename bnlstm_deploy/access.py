"""The bearer token of a server: where it is found."""

import os
from pathlib import Path

from bnlstm_deploy.errors import InputError

TOKEN_VARIABLE = "BNLSTM_DEPLOY_TOKEN"
"""The environment variable that holds the token. A command line is no place: all users see it."""


def read_token(file: Path | None = None) -> str | None:
    """Return the token of a file, else that of the environment, else None.

    Raises:
        InputError: The file cannot be read as text, or the token is empty or not printable ASCII.
    """
    source = TOKEN_VARIABLE if file is None else str(file)
    try:
        token = os.environ.get(TOKEN_VARIABLE) if file is None else file.read_text("ascii")
    except (OSError, UnicodeError) as error:
        raise InputError(f"the token file {source} cannot be read as ASCII: {error}") from error
    if token is None:
        return None
    token = token.strip()
    if not (token.isascii() and token.isprintable() and token):
        raise InputError(
            f"the token in {source} is empty or has characters that are not printable ASCII; "
            "write one such as that of: openssl rand -hex 32"
        )
    return token
