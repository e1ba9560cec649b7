"""What an exported file says of itself: the ONNX metadata under `bnlstm.*`.

The export writes it and the runtime reads it, so this module imports neither torch nor onnx.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field

import msgspec

from bnlstm_deploy.dtypes import ELEMENT_TYPES, STORED
from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.version import __version__

FORMAT_VERSION = 1

PREFIX = "bnlstm."
"""Of the properties."""

INLINED = PREFIX + "inlined"

VERIFIED = PREFIX + "verified."
"""Prefix of the properties that a passed check leaves."""

TEXTS = (
    *("checkpoint_sha256", "form", "folding", "dtype", "reason", "target", "weights"),
    *("activations", "state"),
)
VALUES = (
    *("layers", "merge_tolerance", "calibrated", "length", "pads", "time_axes", "inlined"),
    "format_version",
)
"""Fields of `Metadata`: what the properties hold as it is, and as JSON."""

OPTIONAL, REQUIRED = "optional", "required"
"""What the graph inputs for states, lengths and start steps can be."""

CHOICES: Mapping[str, Collection[str]] = {
    "dtype": ELEMENT_TYPES,
    "weights": STORED,
    "activations": ("int8",),
    "state": (OPTIONAL, REQUIRED),
}
"""What properties can be, if they are there; the first always is."""

NO_LENGTH = 2**63 - 1
"""What `lengths` is for streams that end nowhere within T."""

PRODUCER = f"bnlstm-deploy {__version__}"

CARRIED = {"initial_h": "h_n", "initial_c": "c_n", "start_step": "next_step"}
"""The graph inputs that take a state in, and the outputs that give it out for the next chunk."""


def value_name(module: str, value: str) -> str:
    """Return the graph's name for `initial_h`, `h_n`, `lengths`, ... of the BNLSTM at a path."""
    return f"{module}.{value}" if module else value


@dataclass(frozen=True)
class RecurrentLayers:
    """One BNLSTM of an exported model, and the graph inputs and outputs that hold its state."""

    name: str
    """Its module path in the model; empty if the model *is* a BNLSTM or holds only one."""
    input_size: int
    hidden_size: int
    num_layers: int
    num_directions: int
    steps: int
    """S, the timesteps with statistics of their own."""
    normalize: tuple[str, ...]
    """The normalizations in use."""
    streams: bool
    """Whether a sequence can be continued in chunks.

    Two directions cannot, nor can materialized weights: they belong to timesteps from step 0 on.
    """

    def value_name(self, value: str) -> str:
        """Return the graph's name for `initial_h`, `h_n`, `lengths`, ... of these layers."""
        return value_name(self.name, value)


@dataclass(frozen=True)
class Metadata:
    """The metadata of one exported file."""

    checkpoint_sha256: str
    """SHA-256 of the model's state dict serialized as safetensors, in hexadecimal."""
    layers: tuple[RecurrentLayers, ...]
    form: str
    """Graph form of the recurrence: `scan`, `unrolled`, `lstm`, or several joined by `+`."""
    folding: str
    """View of the fold that the graph computes: `factored`, `materialized`, or both."""
    dtype: str
    """`float32`, `float64`, `float16` or `bfloat16`; the last two of matrix products only."""
    reason: str = ""
    """Why this form and folding; empty in files that do not say."""
    merge_tolerance: float = 0.0
    """How far values were moved to merge rows; see `bnlstm_deploy.folding.merge`."""
    weights: str | None = None
    """`int8`, `float16` or `bfloat16` if weights are stored so in a graph of float32."""
    activations: str | None = None
    """`int8` if h is rounded to it before the hidden product."""
    calibrated: bool = False
    """Whether data chose how weights were rounded to int8."""
    length: int | None = None
    """T if the graph is for one number of timesteps only."""
    target: str = "cpu"
    """Where the graph is to be fast: `cpu`, `cuda` or `tensorrt`."""
    pads: bool = False
    """Whether padding time, and passing `lengths`, leaves the valid part of outputs the same."""
    time_axes: Mapping[str, int] = field(default_factory=dict)
    """The time axis of inputs and outputs that have one, by name; of outputs only if it `pads`."""
    inlined: bool = False
    """Whether the layers' nodes were replaced by what their functions compute."""
    state: str = OPTIONAL
    """Whether the inputs for states, lengths and start steps are `optional` or `required`."""
    verified: Mapping[str, str] = field(default_factory=dict)
    """What the last check that passed found: date, ratio, versions; empty before any."""
    format_version: int = FORMAT_VERSION
    producer: str = PRODUCER

    @property
    def steps(self) -> int:
        """S, the timesteps with statistics of their own, of the layers with the most."""
        return max(layers.steps for layers in self.layers)

    @property
    def numbers(self) -> str:
        """What the graph computes with, in words: `float32, weights in int8, h in int8`."""
        weights = f", weights in {self.weights}" if self.weights else ""
        h = f", h in {self.activations}" if self.activations else ""
        return f"{self.dtype}{weights}{h}"

    @property
    def changes(self) -> str:
        """What the file changes of the model on purpose, in words; empty if nothing."""
        changes = []
        if self.merge_tolerance > 0:
            changes.append(f"merging rows of statistics ({self.merge_tolerance:g} at most)")
        if self.weights:
            how = "calibrated " if self.calibrated else ""
            changes.append(f"storing {how}weights in {self.weights}")
        if self.activations:
            changes.append(f"rounding h to {self.activations}")
        words = " and ".join([", ".join(changes[:-1]), changes[-1]] if changes[1:] else changes)
        return words[:1].upper() + words[1:]

    def to_properties(self) -> dict[str, str]:
        """Return the ONNX metadata properties; every value is a string."""
        content = asdict(self) | {"steps": self.steps}
        verified = content.pop("verified")
        texts = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in content.items()
            if value is not None
        }
        return {PREFIX + name: text for name, text in texts.items()} | {
            VERIFIED + name: text for name, text in verified.items()
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> "Metadata":
        """Read the ONNX metadata properties.

        Raises:
            RuntimeSessionError: They are missing, damaged, or of a newer format.
        """
        version = properties.get("bnlstm.format_version")
        if version is None:
            raise RuntimeSessionError(
                "the file has no bnlstm.* metadata: it was not exported by bnlstm-deploy. "
                "Export it with bnlstm-deploy convert"
            )
        if version != str(FORMAT_VERSION):
            raise RuntimeSessionError(
                f"the file's bnlstm.format_version is {version!r}, this package reads "
                f"{FORMAT_VERSION}; upgrade bnlstm-deploy or export the file again"
            )
        for name, known in CHOICES.items():
            value = properties.get(PREFIX + name)
            if value not in known and (value is not None or name == "dtype"):
                raise RuntimeSessionError(
                    f"the file's bnlstm.{name} is {value!r}, and can be {', '.join(known)}; "
                    "export it again"
                )
        verified = {n.removeprefix(VERIFIED): v for n, v in properties.items() if VERIFIED in n}
        given = {n.removeprefix(PREFIX): v for n, v in properties.items() if PREFIX in n}
        try:
            texts = {name: given[name] for name in TEXTS if name in given}
            values = {name: json.loads(given[name]) for name in VALUES if name in given}
            for layers in values["layers"]:  # older files do not say whether they stream
                layers.setdefault("streams", layers["num_directions"] == 1)
            own = {"verified": verified, "producer": given["producer"]}
            metadata = msgspec.convert({**values, **texts, **own}, cls)
            sizes = [
                (e.input_size, e.hidden_size, e.num_layers, e.num_directions, e.steps)
                for e in metadata.layers
            ]
            if not sizes or min(map(min, sizes)) < 1:
                raise ValueError(f"layers of the sizes {sizes}")
            return metadata
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise RuntimeSessionError(
                f"the file's bnlstm.* metadata is damaged ({error!r}); export it again"
            ) from error
