"""What an exported file says of itself: the ONNX metadata under `bnlstm.*`.

The export writes it and the runtime reads it, so this module imports neither torch nor onnx.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.version import __version__

FORMAT_VERSION = 1

CARRIED = {"initial_h": "h_n", "initial_c": "c_n", "start_step": "next_step"}
"""The graph inputs that take a state in, and the outputs that give it out for the next chunk."""


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
    """S, the statistics rows."""
    normalize: tuple[str, ...]
    """The normalizations in use."""

    def value_name(self, value: str) -> str:
        """Return the graph's name for `initial_h`, `h_n`, `lengths`, ... of these layers."""
        return f"{self.name}.{value}" if self.name else value

    @property
    def streams(self) -> bool:
        """Whether a sequence can be continued in chunks; two directions cannot."""
        return self.num_directions == 1


@dataclass(frozen=True)
class Metadata:
    """The metadata of one exported file."""

    checkpoint_sha256: str
    """SHA-256 of the model's state dict serialized as safetensors, in hexadecimal."""
    layers: tuple[RecurrentLayers, ...]
    form: str
    """Graph form of the recurrence: `scan`."""
    folding: str
    """View of the fold that the graph computes: `factored`."""
    dtype: str
    """`float32` or `float64`."""
    format_version: int = FORMAT_VERSION
    producer: str = f"bnlstm-deploy {__version__}"

    @property
    def steps(self) -> int:
        """S, the statistics rows of the layers with the most."""
        return max(layers.steps for layers in self.layers)

    def to_properties(self) -> dict[str, str]:
        """Return the ONNX metadata properties; every value is a string."""
        return {
            "bnlstm.format_version": str(self.format_version),
            "bnlstm.producer": self.producer,
            "bnlstm.checkpoint_sha256": self.checkpoint_sha256,
            "bnlstm.layers": json.dumps([asdict(layers) for layers in self.layers]),
            "bnlstm.steps": str(self.steps),
            "bnlstm.form": self.form,
            "bnlstm.folding": self.folding,
            "bnlstm.dtype": self.dtype,
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
        try:
            entries = json.loads(properties["bnlstm.layers"])
            layers = tuple(
                RecurrentLayers(**{**entry, "normalize": tuple(entry["normalize"])})
                for entry in entries
            )
            return cls(
                checkpoint_sha256=properties["bnlstm.checkpoint_sha256"],
                layers=layers,
                form=properties["bnlstm.form"],
                folding=properties["bnlstm.folding"],
                dtype=properties["bnlstm.dtype"],
                producer=properties["bnlstm.producer"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RuntimeSessionError(
                f"the file's bnlstm.* metadata is damaged ({error!r}); export it again"
            ) from error
