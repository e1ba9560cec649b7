"""Execution providers: what is asked for is used, or it is an error."""

from collections import Counter
from collections.abc import Sequence

import onnxruntime as ort

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.runtime.cuda import explain_missing_cuda
from bnlstm_deploy.runtime.provider_options import (
    CPU,
    CUDA,
    DEFAULT_OPTIONS,
    TENSORRT,
    ProviderOptions,
    translate,
)

Provider = str | tuple[str, ProviderOptions]
Resolved = list[tuple[str, dict[str, str | int]]]

NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
"""Short names of providers."""

SHAPE_OPS = frozenset(
    "Add And Cast Concat ConstantOfShape Div Equal Expand Gather Greater GreaterOrEqual Identity "
    "Less LessOrEqual Max Min Mul Not Or Range ReduceMax ReduceMin ReduceProd Reshape Shape Size "
    "Slice Squeeze Sub Unsqueeze Where".split()
)
"""Operators of arithmetic on shapes and lengths. All have kernels on CUDA for tensors of floats."""


def parse_providers(text: str) -> list[Provider]:
    """Read providers from text: names, each with options, in order of preference.

        parse_providers("cuda:device_id=1:memory_limit=2GB,cpu")
        # [("cuda", {"device_id": "1", "memory_limit": "2GB"}), "cpu"]

    Args:
        text: Names separated by commas; options follow a name as `:option=value`.

    Returns:
        Names, or pairs of a name and options. They are checked where a session is opened.

    Raises:
        RuntimeSessionError: An option has no value.
    """
    providers: list[Provider] = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, *given = part.split(":")
        pairs = [option.partition("=") for option in given]
        if not all(option and equals and value for option, equals, value in pairs):
            raise RuntimeSessionError(
                f"{part!r} is no provider with options; write it as cuda:device_id=1:tf32=true"
            )
        options: ProviderOptions = {option: value for option, _, value in pairs}
        providers.append((name, options) if options else name)
    return providers


def resolve(providers: Sequence[Provider], *, capture: bool = False) -> Resolved:
    """Return ONNX Runtime's names and the options of the providers asked for.

    What TensorRT does not take goes to CUDA of the same device, whether that is asked for or not.

    Args:
        providers: `"cpu"`, `"cuda"`, `"tensorrt"` or ONNX Runtime's own names, in order of
            preference; or pairs of a name and options, this package's or ONNX Runtime's.
        capture: Whether runs are captured as CUDA graphs.

    Raises:
        RuntimeSessionError: None is given, or one is not part of the onnxruntime installed, an
            option or its value is not known, or runs are to be captured where CUDA is not first.
    """
    if isinstance(providers, str) or not providers:
        raise RuntimeSessionError(
            f"providers is {providers!r}; pass a sequence such as ('cpu',) or ('cuda', 'cpu')"
        )
    available = ort.get_available_providers()
    resolved: Resolved = []
    for provider in providers:
        short, options = (provider, {}) if isinstance(provider, str) else provider
        name = NAMES.get(short, short)
        if name not in available:
            raise RuntimeSessionError(
                f"the provider {short!r} is not part of the onnxruntime installed, which has "
                f"{available}. {_remedy(name)}"
            )
        resolved.append((name, {**DEFAULT_OPTIONS.get(name, {}), **translate(name, options)}))
    names = [name for name, _ in resolved]
    if TENSORRT in names and CUDA not in names:
        place = names.index(TENSORRT)
        device = {k: v for k, v in resolved[place][1].items() if k == "device_id"}
        resolved.insert(place + 1, (CUDA, {**DEFAULT_OPTIONS[CUDA], **device}))
    if capture:
        if names[0] != CUDA:
            raise RuntimeSessionError(
                f"CUDA graphs are captured by the provider 'cuda', and the first is {names[0]}; "
                "pass providers=('cuda',) or capture=False"
            )
        resolved[0][1]["enable_cuda_graph"] = 1
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
            f"ONNX Runtime could not start {dropped[0]} and fell back to {active}. "
            f"{why_not(dropped[0])}Or ask for providers=('cpu',)"
        )


def check_placed(session: ort.InferenceSession) -> None:
    """Check that no work of the model was left to the CPU.

    ONNX Runtime keeps arithmetic on shapes on the CPU in every graph, on purpose: it is not
    counted. Its own option for this (`session.disable_cpu_ep_fallback`) counts it, and so refuses
    every graph that this package exports.

    Args:
        session: One that records where nodes are placed.

    Raises:
        RuntimeSessionError: A node is on the CPU, or this onnxruntime does not tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise RuntimeSessionError(
            f"onnxruntime {ort.__version__} does not tell where nodes are placed; upgrade it for "
            "allow_partial=False"
        )
    left = Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if part.ep_name == CPU and node.op_type not in SHAPE_OPS
    )
    if left:
        what = ", ".join(f"{count} {name}" for name, count in sorted(left.items()))
        raise RuntimeSessionError(
            f"{session.get_providers()[0]} does not take all nodes, and allow_partial=False "
            f"refuses the CPU for: {what}; export for the target cuda, or pass allow_partial=True"
        )


def why_not(provider: str) -> str:
    """Return what is known of why a provider does not start, as sentences and a space."""
    tensorrt = (
        "TensorRT has to be installed: pip install tensorrt. " if provider == TENSORRT else ""
    )
    cuda = f"{explain_missing_cuda()} " if provider in (CUDA, TENSORRT) else ""
    return tensorrt + cuda


def _remedy(name: str) -> str:
    if name not in NAMES.values():
        return f"Pass one of {list(NAMES)} or ONNX Runtime's own names"
    extra = "cpu" if name == CPU else "gpu"
    return (
        f"Install it with: pip install 'bnlstm-deploy[{extra}]' (in an environment without the "
        "other onnxruntime package: both are one module)"
    )
