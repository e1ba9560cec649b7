"""Options of execution providers: this package's few, and ONNX Runtime's own."""

from collections.abc import Callable, Mapping

from bnlstm_deploy.errors import RuntimeSessionError

ProviderOptions = Mapping[str, str | int]

CPU, CUDA, TENSORRT = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)

DEFAULT_OPTIONS: dict[str, ProviderOptions] = {
    # By default ONNX Runtime multiplies float32 matrices in TF32 on CUDA, with an error of 1e-3.
    CUDA: {"use_tf32": 0},
}

UNITS = {"B": 1} | {
    f"{prefix}{unit}": base ** (power + 1)
    for unit, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMG")
}

SEARCHES = ("default", "heuristic", "exhaustive")
"""How cuDNN chooses the algorithm of a convolution."""


def _whole(value: str | int) -> int:
    number = int(value)
    if number < 0:
        raise ValueError("pass 0 or more")
    return number


def _size(value: str | int) -> int:
    """Return a number of bytes; 2GB is 2e9, 2GiB 2 * 2**30."""
    text = str(value).strip()
    digits = text.rstrip("KMGiB")
    number = float(digits) * UNITS[text.removeprefix(digits) or "B"]
    if number < 1:
        raise ValueError("pass at least one byte")
    return int(number)


def _switch(value: str | int) -> int:
    return {"true": 1, "1": 1, "false": 0, "0": 0}[str(value).lower()]


def _search(value: str | int) -> str:
    return SEARCHES[SEARCHES.index(str(value).lower())].upper()


def _named(
    name: str, read: Callable[[str | int], str | int]
) -> Callable[[str | int], ProviderOptions]:
    return lambda value: {name: read(value)}


def _engine_cache(folder: str | int) -> ProviderOptions:
    return {"trt_engine_cache_enable": 1, "trt_engine_cache_path": str(folder)}


Translation = tuple[Callable[[str | int], ProviderOptions], str]

OPTIONS: dict[str, dict[str, Translation]] = {
    CPU: {},
    CUDA: {
        "device_id": (_named("device_id", _whole), "a whole number"),
        "memory_limit": (_named("gpu_mem_limit", _size), "bytes, or a text such as '2GB'"),
        "tf32": (_named("use_tf32", _switch), "true or false"),
        "cudnn_search": (_named("cudnn_conv_algo_search", _search), f"one of {SEARCHES}"),
    },
    TENSORRT: {
        "device_id": (_named("device_id", _whole), "a whole number"),
        "memory_limit": (_named("trt_max_workspace_size", _size), "bytes, or a text such as '2GB'"),
        "engine_cache": (_engine_cache, "a folder"),
        "fp16": (_named("trt_fp16_enable", _switch), "true or false"),
    },
}
"""This package's options: what they are to ONNX Runtime, and their values in words."""

OWN = {
    CPU: (),
    CUDA: tuple(
        "arena_extend_strategy cudnn_conv1d_pad_to_nc1d cudnn_conv_algo_search "
        "cudnn_conv_use_max_workspace device_id do_copy_in_default_stream "
        "enable_skip_layer_norm_strict_mode fuse_conv_bias gpu_external_alloc "
        "gpu_external_empty_cache gpu_external_free gpu_mem_limit has_user_compute_stream "
        "prefer_nhwc sdpa_kernel tunable_op_enable tunable_op_max_tuning_duration_ms "
        "tunable_op_tuning_enable use_ep_level_unified_stream use_tf32 user_compute_stream".split()
    ),
    TENSORRT: ("device_id", "has_user_compute_stream", "user_compute_stream", "trt_*"),
}
"""ONNX Runtime's own options, which pass through."""

GRAPHS = ("enable_cuda_graph", "trt_cuda_graph_enable")
"""Options under which a session runs with fixed addresses only."""


def translate(name: str, options: ProviderOptions) -> dict[str, str | int]:
    """Return options under ONNX Runtime's names; those of unknown providers as they are.

    Args:
        name: ONNX Runtime's name of the provider.
        options: This package's options, or ONNX Runtime's own.

    Raises:
        RuntimeSessionError: An option or its value is not known, or is not for sessions.
    """
    if name not in OPTIONS:
        return dict(options)
    known = OPTIONS[name]
    translated: dict[str, str | int] = {}
    for option, value in options.items():
        if option in GRAPHS:
            raise RuntimeSessionError(
                f"{option} is not an option of a session: graphs need fixed shapes and addresses. "
                "Use bnlstm_deploy.runtime.Buckets, which captures them"
            )
        if option in known:
            translate, words = known[option]
            try:
                translated |= translate(value)
            except (KeyError, ValueError) as error:
                raise RuntimeSessionError(
                    f"{option} of {name} is {value!r}; pass {words}"
                ) from error
        elif option in OWN[name] or ("trt_*" in OWN[name] and option.startswith("trt_")):
            translated[option] = value
        else:
            raise RuntimeSessionError(
                f"{name} has no option {option!r}; it has {list(known)}, and ONNX Runtime's own "
                f"{list(OWN[name])}.{_no_tf32(name, option)}"
            )
    return translated


def _no_tf32(name: str, option: str) -> str:
    if name != TENSORRT or "tf32" not in option:
        return ""
    return " Its TF32 is switched off for the process by the environment: NVIDIA_TF32_OVERRIDE=0"
