"""Opens an exported file on ONNX Runtime: on the native kernel where it can, or without."""

import re
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from bnlstm_deploy.dtypes import NATIVE
from bnlstm_deploy.errors import RuntimeSessionError
from bnlstm_deploy.metadata import INLINED, Metadata
from bnlstm_deploy.runtime.cuda import preload
from bnlstm_deploy.runtime.device import Device, using
from bnlstm_deploy.runtime.kernel import (
    VARIABLE,
    Native,
    demands_cuda,
    register,
    register_cuda,
    warn,
)
from bnlstm_deploy.runtime.provider_options import CPU, CUDA
from bnlstm_deploy.runtime.providers import Resolved, why_not
from bnlstm_deploy.seal import check_seal

ERROR_SEVERITY, FATAL_SEVERITY = 3, 4

FROM_CUDA = re.compile("(CUDA|CUBLAS|CUDNN|cuDNN) (failure|error|version)|cudaError|libcu")
"""What ONNX Runtime says if it is CUDA that does not start, and not the graph that is refused."""

CRASHES = ("FuseFp16InitializerToFp32NodeTransformer",)
"""Optimizers that are switched off: on a CPU this one ends the process on many float16 graphs."""


@dataclass(frozen=True)
class Opening:
    """How a file is opened."""

    providers: Resolved
    device: Device
    """Where the first provider has its memory."""
    intra_op_num_threads: int | None
    """None for ONNX Runtime's default."""
    inter_op_num_threads: int | None
    """Likewise."""
    records_placement: bool
    """Whether ONNX Runtime is to record which provider takes which node."""
    captures: bool
    """Whether runs are captured as CUDA graphs."""
    spins: bool
    """Whether threads that wait for work keep their cores: the next run starts sooner."""

    def open(self, path: Path, *, native: bool) -> tuple[ort.InferenceSession, Native]:
        """Open a file.

        Args:
            path: The ONNX file.
            native: Whether the native kernel is taken, where it can be.

        Raises:
            RuntimeSessionError: The file is damaged, it or a provider cannot be used, or
                BNLSTM_DEPLOY_NATIVE names an instruction set that cannot be had.
        """
        check_seal(path)
        options = self._options()
        kernel = self._register(options) if native else Native(None, "native=False")
        try:
            session = self._open(path, options)
            if kernel and session.get_modelmeta().custom_metadata_map.get(INLINED) == "true":
                return session, Native(None, "the file is inlined: it has no node for the kernel")
            return session, kernel
        except RuntimeSessionError as error:
            if not kernel:
                raise
            on_cuda = self.device.kind == "cuda"
            if on_cuda and demands_cuda():
                raise RuntimeSessionError(f"{VARIABLE}=cuda: {error}") from error
            # With a kernel that does not take the file's types there is no way back to the
            # function body but a session without it. A file that is wrong is so without it, too.
            session = self._open(path, self._options())
            kernel = Native(None, _why_not_native(session, error, "cuda" if on_cuda else "cpu"))
            warn(kernel.reason)
            return session, kernel

    def _register(self, options: ort.SessionOptions) -> Native:
        first, of_first = self.providers[0]
        if first == CUDA:
            return register_cuda(options, tf32=str(of_first.get("use_tf32", 1)) == "1")
        if [name for name, _ in self.providers] == [CPU]:
            return register(options, self.intra_op_num_threads)
        return Native(None, "the native kernel is for the CPU alone, and for CUDA as the first")

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        # A graph that cannot be captured is no error of which the log would have to tell.
        options.log_severity_level = FATAL_SEVERITY if self.captures else ERROR_SEVERITY
        # Patterns are planned for one shape and help none of the others that sequences have.
        options.enable_mem_pattern = False
        # With nodes on the CPU, too, ONNX Runtime frees some of their numbers before all have read
        # them, where they share memory: files of version 0.1 have such. It costs a GPU nothing.
        options.enable_mem_reuse = self.device.kind == "cpu"
        for name in ("intra_op_num_threads", "inter_op_num_threads"):
            setattr(options, name, _threads(name, getattr(self, name)))
        if not self.spins:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.records_placement:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return options

    def _open(self, path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
        if self.device.kind != "cpu":
            preload()
        try:
            with using(self.device):
                return ort.InferenceSession(
                    path,
                    options,
                    providers=self.providers,
                    enable_fallback=0,
                    disabled_optimizers=CRASHES,
                )
        except Exception as error:  # onnxruntime's exceptions have no common base
            message = f"ONNX Runtime cannot load {path}: {str(error).strip()}"
            if FROM_CUDA.search(str(error)):
                message = f"{message}. {why_not(self.providers[0][0])}".strip()
            raise RuntimeSessionError(message) from error


def _why_not_native(session: ort.InferenceSession, error: RuntimeSessionError, kind: str) -> str:
    """Return why a file runs, and not on the native kernel, with which it gave an error."""
    metadata = Metadata.from_properties(session.get_modelmeta().custom_metadata_map)
    dtypes = NATIVE[kind]
    if metadata.dtype not in dtypes:
        known = " and ".join(filter(None, [", ".join(dtypes[:-1]), dtypes[-1]]))
        where = " for CUDA" if kind == "cuda" else ""
        return f"the native kernel{where} is for {known}, not {metadata.dtype}"
    if kind == "cuda" and metadata.weights:
        return f"the native kernel for CUDA takes no weights in {metadata.weights}"
    return f"ONNX Runtime refuses the file with the native kernel: {error}"


def _threads(name: str, number: int | None) -> int:
    if number is None:
        return 0  # ONNX Runtime's way to say its default
    if number < 1:
        raise RuntimeSessionError(f"{name} is {number}; pass at least 1")
    return number
