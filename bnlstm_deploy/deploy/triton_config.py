"""The configuration of a model for Triton Inference Server: its config.pbtxt."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bnlstm_deploy.deploy.pbtxt import Field, Word
from bnlstm_deploy.errors import InputError

if TYPE_CHECKING:  # they need numpy and ONNX Runtime, which `bnlstm-deploy --help` does not
    from bnlstm_deploy.deploy.interface import Carried, Interface, Tensor
    from bnlstm_deploy.metadata import Metadata

WARM_UP_STEPS = 8
"""T of the runs before the model is ready, where it is not fixed."""

MOST = 2**31 - 1
"""The largest batch, and number of streams, instances or threads: an int32 in config.pbtxt."""

MOST_SECONDS = 1e9
"""The longest time: Triton counts nanoseconds with 64 bits."""

Message = dict[str, Field]


Backend = Literal["onnxruntime", "python"]
"""What runs the file inside of Triton."""

Strategy = Literal["direct", "oldest"]
"""How Triton makes batches of streams."""

Instance = Literal["cpu", "gpu"]
"""Where an instance of the model runs."""


@dataclass(frozen=True)
class Options:
    """The choices of a deployment."""

    backend: Backend = "onnxruntime"
    strategy: Strategy = "oldest"
    max_batch: int = 64
    """Streams in one run."""
    preferred_batches: tuple[int, ...] = ()
    """Batches that need wait for no others."""
    max_wait: float = 0.002
    """Seconds that a request waits for others."""
    max_sequences: int = 1024
    """Streams at a time in each instance; with the strategy direct there are `max_batch`."""
    sequence_idle: float = 60.0
    """Seconds without a chunk after which Triton forgets a stream."""
    instance: Instance = "cpu"
    instances: int = 1
    threads: int | None = None
    """Inside an operator; ONNX Runtime's default is one a core."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InputError: A number is out of range.
        """
        for name in ("max_batch", "max_sequences", "instances", "threads"):
            number = getattr(self, name)
            if number is not None and not 1 <= number <= MOST:
                raise InputError(f"{name} is {number}; pass 1 to {MOST}")
        # 0 microseconds without a chunk would be Triton's own default.
        for name, least in (("max_wait", 0), ("sequence_idle", 1e-6)):
            seconds = getattr(self, name)
            if not least <= seconds <= MOST_SECONDS:
                raise InputError(f"{name} is {seconds} s; pass {least:g} to {MOST_SECONDS:g} s")
        if not all(1 <= batch <= self.max_batch for batch in self.preferred_batches):
            raise InputError(
                f"preferred batches {self.preferred_batches} must be 1 to {self.max_batch}, the "
                "largest batch"
            )
        if self.preferred_batches and self.strategy == "direct":
            raise InputError(
                f"preferred batches {self.preferred_batches} are given, and the strategy direct "
                "has none; pass the strategy oldest"
            )

    @property
    def warm_up(self) -> list[int]:
        """The batch sizes that are run before the model is ready."""
        return sorted({1, *self.preferred_batches, self.max_batch})


def configuration(
    name: str,
    interface: "Interface",
    metadata: "Metadata",
    options: Options,
    *,
    library: str | None = None,
) -> Message:
    """Return the fields of config.pbtxt.

    Args:
        name: The model's.
        interface: Its tensors.
        metadata: What the exported file says of itself.
        options: The choices.
        library: The native kernel's: for the python backend its name beside the ONNX file, for
            onnxruntime its path on the server. None for none.
    """
    python = options.backend == "python"
    ragged = frozenset(metadata.time_axes) if python and metadata.pads else frozenset()
    message: Message = {
        "name": name,
        "backend": options.backend,
        "max_batch_size": options.max_batch,
        "input": [_tensor(tensor, ragged=tensor.name in ragged) for tensor in interface.inputs],
        "output": [_tensor(tensor) for tensor in interface.outputs],
        "instance_group": [
            {"kind": Word(f"KIND_{options.instance.upper()}"), "count": options.instances}
        ],
    }
    if interface.carried:
        message["sequence_batching"] = _sequence_batching(interface.carried, options)
    else:
        message["dynamic_batching"] = _queue(options)
    if python:
        facts = json.dumps(_facts(interface, metadata, options, library))
        message["parameters"] = [{"key": "bnlstm", "value": {"string_value": facts}}]
        return message
    if library is not None:
        # Opened as it is: a relative path would be one in the folder that the server runs in.
        message["model_operations"] = {"op_library_filename": [library]}
    if options.threads is not None:
        threads = {"string_value": str(options.threads)}
        message["parameters"] = [{"key": "intra_op_thread_count", "value": threads}]
    if metadata.dtype == "float16" and options.instance == "cpu":
        # The level above has an optimizer that ends the process on many float16 graphs.
        message["optimization"] = {"graph": {"level": 1}}
    if not interface.carried:
        message["model_warmup"] = [_warm_up(interface.inputs, n) for n in options.warm_up]
    # Triton's warm-up requests belong to no stream, and with states that it is to keep it fails on
    # them: such a model is warmed up by its first requests.
    return message


def _tensor(tensor: "Tensor", *, ragged: bool = False) -> Message:
    return {
        "name": tensor.name,
        "data_type": Word(tensor.type),
        "dims": [*tensor.dims],
        "allow_ragged_batch": True if ragged else None,
    }


def _queue(options: Options) -> Message:
    return {
        "preferred_batch_size": [*options.preferred_batches] or None,
        "max_queue_delay_microseconds": _microseconds(options.max_wait),
    }


def _sequence_batching(carried: "Sequence[Carried]", options: Options) -> Message:
    message: Message = {
        "max_sequence_idle_microseconds": _microseconds(options.sequence_idle),
    }
    if options.strategy == "oldest":
        message["oldest"] = {"max_candidate_sequences": options.max_sequences, **_queue(options)}
    else:
        message["direct"] = {
            "max_queue_delay_microseconds": _microseconds(options.max_wait),
            # Until all places are ready: with the default, 0, Triton ignores the delay.
            "minimum_slot_utilization": 1.0,
        }
    if options.backend == "python":
        # None for the identifier: Triton writes one of the other type, a number or text, past the
        # end of its tensor. The model asks the request itself.
        message["control_input"] = [*map(_control, ("START", "END", "READY"))]
    else:
        message["state"] = [*map(_state, carried)]
    return message


def _control(kind: str) -> Message:
    flag = {"kind": Word(f"CONTROL_SEQUENCE_{kind}"), "bool_false_true": [False, True]}
    return {"name": kind, "control": [flag]}


def _state(carried: "Carried") -> Message:
    dims = [*carried.input.dims]
    learned = bool(carried.initial.any())
    source = {"data_file": carried.input.name} if learned else {"zero_data": True}
    type = Word(carried.input.type)
    return {
        "input_name": carried.input.name,
        "output_name": carried.output.name,
        "data_type": type,
        "dims": dims,
        "initial_state": [{"name": "initial", "data_type": type, "dims": dims, **source}],
    }


def _warm_up(inputs: "Sequence[Tensor]", batch: int) -> Message:
    zeros = [
        {
            "key": tensor.name,
            "value": {
                "data_type": Word(tensor.type),
                "dims": [WARM_UP_STEPS if size == -1 else size for size in tensor.dims],
                "zero_data": True,
            },
        }
        for tensor in inputs
    ]
    return {"name": f"batch {batch}", "batch_size": batch, "inputs": zeros}


def _facts(
    interface: "Interface", metadata: "Metadata", options: Options, library: str | None
) -> Message:
    """Return what `triton_model.py` has to know."""
    pads = metadata.pads and metadata.length is None
    direct = options.strategy == "direct"
    return {
        "inputs": {t.name: None if t.flat else t.axis for t in interface.inputs},
        "outputs": {t.name: None if t.flat else t.axis for t in interface.outputs},
        "carried": {c.input.graph_name: c.output.graph_name for c in interface.carried},
        "state_axes": {
            tensor.graph_name: tensor.axis
            for carried in interface.carried
            for tensor in (carried.input, carried.output)
        },
        "time_axes": dict(metadata.time_axes) if pads else {},
        "lengths": [layers.value_name("lengths") for layers in metadata.layers],
        "max_sequences": options.max_batch if direct else options.max_sequences,
        "threads": options.threads or 0,
        "library": library,
        "warm_up": options.warm_up,
    }


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
