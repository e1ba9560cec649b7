"""What a model may be called where it is deployed."""

import re

from bnlstm_deploy.errors import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names that need no quoting in a URL or a shell."""

DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
"""Names of Kubernetes' services."""


def check_name(name: str) -> str:
    """Return the name of a model.

    Raises:
        InputError: It is not made of letters, digits, dots, dashes and underscores.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"a model cannot be called {name!r}; pass a name of letters, digits, dots, dashes "
            "and underscores"
        )
    return name


def check_label(name: str) -> str:
    """Return the name of a Kubernetes service.

    Raises:
        InputError: It is not made of at most 63 small letters, digits and dashes.
    """
    if not DNS_LABEL.fullmatch(name):
        raise InputError(
            f"a Kubernetes service cannot be called {name!r}; pass a name of at most 63 small "
            "letters, digits and dashes, a letter first"
        )
    return name
