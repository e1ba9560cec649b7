"""bnlstm-deploy run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnlstm_deploy.atomic import check_writable, replacing
from bnlstm_deploy.cli.console import make_console
from bnlstm_deploy.cli.options import Force, Model, Running
from bnlstm_deploy.errors import InputError

if TYPE_CHECKING:
    from bnlstm_deploy.signature import Array, Signature


def run(
    model: Model,
    input: Annotated[
        Path,
        typer.Option(
            "--input",
            "-i",
            metavar="X.npz",
            help="Arrays by input name (.npz), or the only input (.npy).",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="Y.npz", help="Arrays by output name.")
    ],
    running: Running,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="Y.npz", help="Output of the run before, to continue its streams."
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Run an exported file on arrays from files.

    Example: bnlstm-deploy run digits.onnx --input x.npz -o y.npz
    """
    import numpy as np

    from bnlstm_deploy.npz import read_npz

    if output.suffix != ".npz":
        raise InputError(f"--output is {output}; arrays are written as .npz, so name it so")
    check_writable(output, force=force, inputs=(model, input, state))
    session = running.open(model)
    feeds = read_npz(input, session.inputs[0].name)
    if state is not None:
        feeds |= read_state(state, session.signature)
    results = session.run(feeds)
    with replacing(output, force=force) as temporary, temporary.open("wb") as file:
        np.savez(file, **results)  # type: ignore[arg-type]
    shapes = ", ".join(f"{name} {array.shape}" for name, array in results.items())
    make_console().print(f"Wrote {output}: {shapes}")


def read_state(path: Path, signature: "Signature") -> "dict[str, Array]":
    """Return the state inputs that the outputs of the run before give.

    Raises:
        InputError: They are no outputs of this model, or lack a state; or no stream of the model
            can be continued.
    """
    from bnlstm_deploy.npz import read_npz

    if not signature.streams:
        why = next(iter(signature.whole.values()), "a model that passes its BNLSTM a state itself")
        raise InputError(f"--state is given for {why}; run whole sequences, without it")
    results = read_npz(path)
    known = [value.name for value in (*signature.outputs, *signature.state_outputs)]
    missing = sorted({*signature.carried.values()} - results.keys())
    unknown = sorted(results.keys() - {*known})
    if missing or unknown:
        raise InputError(
            f"{path} lacks {missing} and has the unknown arrays {unknown}; pass what a run of this "
            f"model wrote, with the outputs {known}"
        )
    return {into: results[out] for into, out in signature.carried.items()}
