"""Optional dependencies: imported when first needed, and named when they are missing."""

import importlib.util

from bnlstm_deploy.errors import MissingExtraError


def require(module: str, *, extra: str) -> None:
    """Raise unless `module` can be imported.

    Args:
        module: The top-level module that the caller is about to import, such as `"torch"`.
        extra: The extra of this package that installs it, such as `"convert"`.

    Raises:
        MissingExtraError: `module` is not installed; the message is the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f"{module} is not installed, and this needs it. "
            f"Install it with: pip install 'bnlstm-deploy[{extra}]'"
        )
