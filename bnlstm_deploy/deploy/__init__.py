"""Deployments of exported files on other servers: what they are to read, written to files."""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from bnlstm_deploy.deploy.interface import Interface, describe
    from bnlstm_deploy.deploy.kserve import Service, manifest
    from bnlstm_deploy.deploy.triton import write_repository
    from bnlstm_deploy.deploy.triton_config import Options, configuration

__all__ = [
    "Interface",
    "Options",
    "Service",
    "configuration",
    "describe",
    "manifest",
    "write_repository",
]

_MODULES = {
    "interface": ("Interface", "describe"),
    "kserve": ("Service", "manifest"),
    "triton": ("write_repository",),
    "triton_config": ("Options", "configuration"),
}
"""Loaded when used: `interface` needs ONNX Runtime, which `bnlstm-deploy --help` does not."""


def __getattr__(name: str) -> _typing.Any:  # noqa: ANN401
    for module, names in _MODULES.items():
        if name in names:
            return getattr(_importlib.import_module(f"bnlstm_deploy.deploy.{module}"), name)
    raise AttributeError(f"module 'bnlstm_deploy.deploy' has no attribute {name!r}")
