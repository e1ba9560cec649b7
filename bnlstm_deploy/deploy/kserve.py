"""An InferenceService of KServe that runs `bnlstm-deploy serve`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bnlstm_deploy.access import TOKEN_VARIABLE
from bnlstm_deploy.deploy.names import check_label
from bnlstm_deploy.errors import InputError
from bnlstm_deploy.extras import require

require("yaml", extra="serve")

import yaml  # noqa: E402

HTTP_PORT, GRPC_PORT = 8080, 8081
MOUNT = "/mnt/models"
"""Where KServe puts what the storage URI has."""

TOKEN_KEY = "token"
"""Where the token is in the secret."""

CPU = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]+m")

MEMORY = re.compile(r"([0-9]+)(Ki|Mi|Gi|Ti|k|M|G|T)?")
UNITS: Mapping[str, int] = {
    **{f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGT", 1)},
    **{letter: 10 ** (3 * power) for power, letter in enumerate("kMGT", 1)},
}

LEAST_MEMORY = 512 * 2**20
"""Bytes for a server: it takes some 110 MB itself, and a run up to twice its limit."""

SHARE = 4
"""Which part of the memory is the limit of a run, and of the requests that wait."""

USER = 1000
"""That of the Dockerfile."""

LEAVE_SECONDS = 5
"""From the decision to stop a pod to its SIGTERM: until then clients may still be sent there."""

GRACE_SECONDS = 60 + LEAVE_SECONDS
"""From that decision to SIGKILL: twice what a request may take, and until SIGTERM."""

PROBE_SECONDS = 5
"""How long a probe waits for an answer: a busy node is no dead server."""

STICKY = (
    "Each replica holds its own sequences: with more than one, clients that use sequence_id have "
    "to reach the same replica each time (bnlstm-deploy deploy ray does that), or carry the states."
)

Node = object
"""A number, a bool, a string, a mapping, or a list of these."""


@dataclass(frozen=True)
class Service:
    """What differs from one service to another.

    Raises:
        InputError: The name cannot be one, the storage has no scheme, the image is empty, or a
            number is out of range.
    """

    name: str
    """The service's, and the model's in URLs."""
    file: str
    """The exported file's name, at the storage URI."""
    storage_uri: str
    """The folder with the exported file, such as `pvc://CLAIM/FOLDER` or `s3://BUCKET/FOLDER`."""
    image: str
    """A container image whose entry point is `bnlstm-deploy`; see the Dockerfile."""
    min_replicas: int = 1
    max_replicas: int = 1
    cpu: str = "1"
    """Kubernetes' quantity."""
    memory: str = "1Gi"
    """Likewise, of bytes; the server's limits follow from it."""
    gpus: int = 0
    native: bool = True
    """Whether the server takes the native kernel where its image has one."""
    token_secret: str | None = None
    """The Kubernetes secret whose key `token` is the bearer token; None to let everybody in."""

    @property
    def memory_bytes(self) -> int:
        """The memory in bytes."""
        found = MEMORY.fullmatch(self.memory)
        assert found is not None
        return int(found[1]) * (UNITS[found[2]] if found[2] else 1)

    @property
    def threads(self) -> int:
        """The threads of an operator: the whole cores that the container has, one at least."""
        cores = int(self.cpu[:-1]) / 1000 if self.cpu.endswith("m") else float(self.cpu)
        return max(1, int(cores))

    def __post_init__(self) -> None:
        """Check the fields."""
        check_label(self.name)
        if not self.image:
            raise InputError("the image is ''; pass its name, such as registry.example/NAME:TAG")
        if "://" not in self.storage_uri:
            raise InputError(
                f"the storage URI is {self.storage_uri!r}; pass one with a scheme, such as "
                "pvc://CLAIM/FOLDER"
            )
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise InputError(
                f"replicas from {self.min_replicas} to {self.max_replicas}; pass at least 1 as the "
                "most, and no more as the least"
            )
        if not CPU.fullmatch(self.cpu):
            raise InputError(f"cpu is {self.cpu!r}; pass cores such as 2 or 0.5, or 500m")
        if not MEMORY.fullmatch(self.memory) or self.memory_bytes < LEAST_MEMORY:
            raise InputError(f"memory is {self.memory!r}; pass at least 512Mi, such as 1Gi")
        if self.gpus < 0:
            raise InputError(f"gpus is {self.gpus}; pass 0 or more")


def manifest(service: Service) -> str:
    """Return the manifest as YAML."""
    text: str = yaml.safe_dump(inference_service(service), sort_keys=False, allow_unicode=True)
    warning = f"# {STICKY}\n" if service.max_replicas > 1 else ""
    return warning + text


def inference_service(service: Service) -> dict[str, Node]:
    """Return the InferenceService of API version v1beta1."""
    most = str(service.memory_bytes // SHARE)
    container = {
        "name": "kserve-container",
        "image": service.image,
        "args": [
            "serve",
            f"{service.name}={MOUNT}/{service.file}",
            *("--host", "0.0.0.0"),
            *("--http-port", str(HTTP_PORT)),
            *("--grpc-port", str(GRPC_PORT)),
            *("--threads", str(service.threads)),
            *("--max-run", most, "--max-pending", most),
            *(("--providers", "cuda") if service.gpus else ()),
            *(() if service.native else ("--no-native",)),
        ],
        "env": _environment(service),
        "ports": [
            {"name": "http1", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "h2c", "containerPort": GRPC_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {**_probe("ready"), "periodSeconds": 5},
        "livenessProbe": {**_probe("live"), "periodSeconds": 10, "failureThreshold": 3},
        # An address that is being withdrawn is still used for a while.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVE_SECONDS)]}}},
        "resources": _resources(service),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": service.name,
            # Plain deployments and services: Knative's have one port, and this has two.
            "annotations": {"serving.kserve.io/deploymentMode": "RawDeployment"},
        },
        "spec": {
            "predictor": {
                "annotations": {
                    "prometheus.io/scrape": "true",
                    "prometheus.io/port": str(HTTP_PORT),
                    "prometheus.io/path": "/metrics",
                },
                "minReplicas": service.min_replicas,
                "maxReplicas": service.max_replicas,
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                "containers": [container],
            }
        },
    }


def _probe(state: str) -> dict[str, Node]:
    where = {"path": f"/v2/health/{state}", "port": HTTP_PORT}
    return {"httpGet": where, "timeoutSeconds": PROBE_SECONDS}


def _environment(service: Service) -> list[Node]:
    variables: list[Node] = [{"name": "STORAGE_URI", "value": service.storage_uri}]
    if service.token_secret is not None:
        key = {"name": service.token_secret, "key": TOKEN_KEY}
        variables.append({"name": TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": key}})
    return variables


def _resources(service: Service) -> dict[str, Node]:
    amounts = {"cpu": service.cpu, "memory": service.memory}
    gpus = {"nvidia.com/gpu": str(service.gpus)} if service.gpus else {}
    return {"requests": amounts | gpus, "limits": amounts | gpus}
