"""Execution providers: what is asked for is used, or it is an error."""

from collections.abc import Mapping, Sequence

import onnxruntime as ort

from bnlstm_deploy.errors import RuntimeSessionError

ProviderOptions = Mapping[str, str | int]
Provider = str | tuple[str, ProviderOptions]

NAMES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Short names of providers."""

DEFAULT_OPTIONS: dict[str, ProviderOptions] = {
    # By default ONNX Runtime multiplies float32 matrices in TF32 on CUDA, with an error of 1e-3.
    "CUDAExecutionProvider": {"use_tf32": 0},
}


def resolve(providers: Sequence[Provider]) -> list[tuple[str, dict[str, str | int]]]:
    """Return ONNX Runtime's names and the options of the providers asked for.

    Args:
        providers: `"cpu"`, `"cuda"`, `"tensorrt"` or ONNX Runtime's own names, in order of
            preference; or pairs of a name and options, which go before this package's.

    Raises:
        RuntimeSessionError: None is given, or one is not part of the onnxruntime installed.
    """
    if isinstance(providers, str) or not providers:
        raise RuntimeSessionError(
            f"providers is {providers!r}; pass a sequence such as ('cpu',) or ('cuda', 'cpu')"
        )
    available = ort.get_available_providers()
    resolved = []
    for provider in providers:
        short, options = (provider, {}) if isinstance(provider, str) else provider
        name = NAMES.get(short, short)
        if name not in available:
            raise RuntimeSessionError(
                f"the provider {short!r} is not part of the onnxruntime installed, which has "
                f"{available}. {_remedy(name)}"
            )
        resolved.append((name, {**DEFAULT_OPTIONS.get(name, {}), **options}))
    return resolved


def check_active(session: ort.InferenceSession, requested: Sequence[str]) -> None:
    """Check that ONNX Runtime did not fall back to other providers, which it does silently.

    Raises:
        RuntimeSessionError: A requested provider is not active.
    """
    active = session.get_providers()
    dropped = [name for name in requested if name not in active]
    if dropped:
        raise RuntimeSessionError(
            f"ONNX Runtime could not start {dropped[0]} and fell back to {active}. Check that the "
            "device, its driver and its libraries are there (for CUDA: nvidia-smi, CUDA 13 and "
            "cuDNN 9, which onnxruntime-gpu[cuda,cudnn] installs), or ask for providers=('cpu',)"
        )


def _remedy(name: str) -> str:
    if name not in NAMES.values():
        return f"Pass one of {list(NAMES)} or ONNX Runtime's own names"
    extra = "cpu" if name == NAMES["cpu"] else "gpu"
    return (
        f"Install it with: pip install 'bnlstm-deploy[{extra}]' (in an environment without the "
        "other onnxruntime package: both are one module)"
    )
