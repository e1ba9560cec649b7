"""The files of one model, for several lengths of sequences."""

from collections.abc import Sequence
from pathlib import Path

from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.runtime.provider_options import CUDA
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.runtime.session import Session

UNROLLED = "unrolled"
"""The function bodies that can be captured: the others have control flow, or work on the CPU."""


class _Capturing(Session):
    """A session whose runs are captured and replayed: it is called through bindings only."""

    captures = True


def open_files(
    files: Sequence[Path], providers: Sequence[Provider], capture: bool | None
) -> tuple[list[Session], bool]:
    """Open files, such that CUDA graphs are captured where that is wanted and possible.

    Args:
        files: The files.
        providers: Execution providers, as for a Session.
        capture: Whether to capture; None for where it is possible.

    Returns:
        A session of each file, and whether they capture.

    Raises:
        RuntimeSessionError: A file or provider cannot be used, or a graph cannot be captured.
    """

    def open_all(kind: type[Session]) -> list[Session]:
        return [kind(path, providers=providers) for path in files]

    if capture is False or (capture is None and not _on_cuda(providers)):
        return open_all(Session), False
    refused = None
    try:
        sessions = open_all(_Capturing)
    except RuntimeSessionError as error:
        refused = error
        sessions = open_all(Session)
    other = {s.metadata.form for s in sessions if not s.native.on_cuda} - {UNROLLED}
    if refused is None and not other:
        return sessions, True
    if capture is None and other:
        return (open_all(Session) if refused is None else sessions), False
    if other:
        targets = ", ".join(sorted({session.metadata.target for session in sessions}))
        raise RuntimeSessionError(
            f"graphs of the form {', '.join(sorted(other))} cannot be captured as CUDA graphs "
            "without the native kernel for CUDA, and these were made for the target "
            f"{targets}; export for the target cuda, and a length where that kernel is not to be "
            "had, or pass capture=False"
        ) from refused
    assert refused is not None
    raise refused


def _on_cuda(providers: Sequence[Provider]) -> bool:
    first = providers[0] if providers else ""
    return (first if isinstance(first, str) else first[0]) in ("cuda", CUDA)


def check_one_model(files: Sequence[Path], sessions: Sequence[Session]) -> None:
    """Check that files are exports of one model that differ in their length only.

    Raises:
        RuntimeSessionError: They are not.
    """

    def identity(session: Session) -> tuple[object, ...]:
        values = (session.inputs, session.outputs, session.state_inputs, session.state_outputs)
        kinds = [[(v.name, v.dtype, len(v.shape)) for v in group] for group in values]
        return session.metadata.checkpoint_sha256, session.metadata.layers, kinds

    for path, session in zip(files, sessions, strict=True):
        if identity(session) != identity(sessions[0]):
            raise RuntimeSessionError(
                f"{path} and {files[0]} are not exports of one checkpoint with the same layers, "
                "inputs and outputs; pass files that differ in their length only"
            )


def by_length(
    files: Sequence[Path], sessions: Sequence[Session], lengths: Sequence[int] | None
) -> dict[int, Session]:
    """Return the session of each bucket's T.

    Args:
        files: The files.
        sessions: Their sessions: one with dynamic time, or unrolled ones.
        lengths: T of the buckets, for dynamic time.

    Raises:
        RuntimeSessionError: The files are others.
        InputError: The lengths are not positive, missing, or given for unrolled files.
    """
    fixed = [session.metadata.length for session in sessions]
    if fixed == [None]:
        if not lengths or min(lengths) < 1:
            raise InputError(
                f"lengths is {lengths} and {files[0]} takes any number of timesteps; pass those of "
                "the buckets, such as lengths=(64, 128)"
            )
        return dict.fromkeys(lengths, sessions[0])
    if None in fixed or len({*fixed}) < len(fixed):
        raise RuntimeSessionError(
            f"the files are unrolled for {fixed} timesteps (None: for any number); pass one with "
            "dynamic time, or several unrolled for different lengths"
        )
    if lengths is not None:
        raise InputError(
            f"lengths is {lengths}, and the files fix their own: {fixed}; leave it out"
        )
    return {s.metadata.length: s for s in sessions if s.metadata.length is not None}
