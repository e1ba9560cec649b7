"""Inference requests by hand, for what clients of the protocol would never send."""

import http.client
import json
from typing import Any

import numpy as np

JSON_LENGTH = "Inference-Header-Content-Length"


def tensor(name: str, array: np.ndarray, **fields: Any) -> dict[str, Any]:
    """Return an input in JSON."""
    datatype = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}[array.dtype.name]
    data = array.ravel().tolist()
    return {"name": name, "shape": [*array.shape], "datatype": datatype, "data": data} | fields


def binary(arrays: dict[str, np.ndarray], **fields: Any) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request with binary tensors."""
    inputs = []
    for name, array in arrays.items():
        entry = tensor(name, array, parameters={"binary_data_size": array.nbytes})
        del entry["data"]
        inputs.append(entry)
    head = json.dumps({"inputs": inputs} | fields).encode()
    return head + b"".join(a.tobytes() for a in arrays.values()), {JSON_LENGTH: str(len(head))}


def send(
    address: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, Any, http.client.HTTPMessage]:
    """Send bytes, or a value as JSON; return status, content and headers of the answer."""
    connection = http.client.HTTPConnection(address, timeout=60)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    default = "GET" if content is None else "POST"
    try:
        connection.request(method or default, path, content, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        kind = answer.headers.get("content-type", "")
        return answer.status, json.loads(text) if text and "json" in kind else text, answer.headers
    finally:
        connection.close()
