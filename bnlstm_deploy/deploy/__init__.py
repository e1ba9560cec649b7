"""Deployments of exported files on other servers: what they are to read, written to files."""

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
