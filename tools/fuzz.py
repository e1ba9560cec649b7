"""Feed damaged and hostile files to everything that reads files, and say what gets through.

    python -m tools.fuzz --cases 10000

Each case is a valid file with a few changes, of its bytes or of what it holds. It is read in a
process of its own, with 3 GB of address space and 30 s. A finding is an exception that is none of
this package's, a process that is killed, and a file that is taken although what was changed is
protected by a checksum.
"""

import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import onnx
import safetensors.torch
import torch
import typer
from rich.console import Console
from rich.progress import track

from bnlstm_deploy import seal
from bnlstm_deploy.checkpoint import compare_recording, import_checkpoint, load, read_recording
from bnlstm_deploy.checkpoint.own_format import save_checkpoint
from bnlstm_deploy.checkpoint.parse import layout_text, parse_layout
from bnlstm_deploy.cli.run import read_state
from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.exporting import export
from bnlstm_deploy.nn import BNLSTM
from bnlstm_deploy.runtime import Session

ADDRESS_SPACE = 3_000_000_000
SECONDS = 30

FINE, REFUSED, FINDING = range(3)
"""Exit statuses of the process of a case."""

EVIL_KEYS = ("running_mean_999999999999999", "cell_999999999.weight_ih", "٣", "x" * 10**6, "")
EVIL_NUMBERS: tuple[Any, ...] = (0, -1, 10**9, 10**30, 1e308, float("nan"), True, None, "x", [], {})


Change = Callable[[random.Random, Path], None]
"""Changes a file, by chance."""


STRANGE_TENSORS: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda tensor: tensor.to("meta"),
    lambda tensor: tensor.to_sparse(),
    lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor.to(torch.float8_e4m3fn),
    lambda tensor: tensor > 0,
    lambda tensor: tensor.long(),
    lambda tensor: tensor.half(),
    lambda tensor: tensor[:0],
    lambda tensor: torch.zeros(()),
    lambda tensor: torch.zeros(1).expand(10**10),
    lambda tensor: tensor.unsqueeze(0).expand(10**9, *tensor.shape),
    lambda tensor: tensor * float("nan"),
    lambda tensor: tensor.T if tensor.ndim == 2 else tensor[None],
    lambda tensor: {"inner": tensor},
    lambda tensor: [tensor],
)

STRANGE_ARRAYS: tuple[Callable[[Any], Any], ...] = (
    lambda array: array.astype(">f8"),
    lambda array: array.astype(np.complex64),
    lambda array: array.astype("U8"),
    lambda array: array.astype(bool),
    lambda array: array[:0],
    lambda array: array.ravel(),
    lambda array: array[None],
    lambda array: array * np.nan,
    lambda array: array.astype(np.float64) * 1e300,
    lambda array: np.zeros(3, [("a", "f4")]),
    lambda array: np.array([object()], dtype=object),
    lambda array: np.moveaxis(array, 0, -1) if array.ndim else array,
)


class Kind(NamedTuple):
    """A kind of files."""

    name: str
    """Of the file."""
    change: Change
    read: Callable[[Path], str]
    """Reads the file; returns what it holds, as a digest."""
    expected: str | None = None
    """What it holds, if a checksum protects it: then to take something else is a finding."""


def main(
    cases: Annotated[int, typer.Option(help="How many, of all kinds in turns.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the changes.")] = 0,
) -> None:
    """Print the findings, and how many files of each kind were refused; exit status 1 if any."""
    console = Console(markup=False, emoji=False, highlight=False)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts: Counter[tuple[int, int]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        valid = Path(folder) / "valid"
        valid.mkdir()
        kinds = make_kinds(valid)
        for number in track(range(cases), "Reading", console=console, transient=True):
            kind = kinds[number % len(kinds)]
            result, words = run(kind, valid, Path(folder) / "case", seed * cases + number)
            counts[number % len(kinds), result] += 1
            if result == FINDING:
                console.print(f"{kind.name}, case {seed * cases + number}: {words}")
    for number, kind in enumerate(kinds):
        fine, refused, found = (counts[number, result] for result in range(3))
        sums = "" if kind.expected is None else ", with checksums"
        console.print(f"{kind.name}{sums}: {refused} refused, {fine} taken, {found} findings")
    if any(result == FINDING for _, result in counts):
        raise typer.Exit(1)


def run(kind: Kind, valid: Path, folder: Path, seed: int) -> tuple[int, str]:
    """Read a changed file in a process of its own; return its status, and what it said."""
    said = folder.with_suffix(".txt")
    child = os.fork()
    if child == 0:
        os._exit(_case(kind, valid, folder, seed, said))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return FINDING, f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return os.WEXITSTATUS(status), said.read_text(errors="replace") if said.exists() else ""


def _case(kind: Kind, valid: Path, folder: Path, seed: int, said: Path) -> int:
    said.unlink(missing_ok=True)
    errors = os.open(said, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(errors, stream)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(valid, folder)
        path = folder / kind.name
        content = path.read_bytes()
        kind.change(random.Random(seed), path)
        changed = path.read_bytes() != content
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        signal.alarm(SECONDS)
        after = kind.read(path)
    except BnlstmError as error:
        print(error)
        return REFUSED
    except BaseException:
        traceback.print_exc()
        return FINDING
    if kind.expected is not None and changed and after != kind.expected:
        print("taken, and it holds something else")
        return FINDING
    return FINE


def make_kinds(folder: Path) -> list[Kind]:
    """Write a valid file of each kind into a folder; return the kinds."""
    torch.manual_seed(0)
    model = BNLSTM(3, 4, max_length=3).eval()
    x = torch.randn(5, 2, 3)
    save_checkpoint(model, folder)
    tensors = {
        f"rnn.cell_0.{name}": tensor
        for name, tensor in {
            "weight_ih": torch.randn(3, 16),
            "weight_hh": torch.randn(4, 16),
            "bias": torch.randn(16),
            **{
                f"bn_{norm}.{key}": torch.rand(size) + 0.5
                for norm, size in (("ih", 16), ("hh", 16), ("c", 4))
                for key in (
                    "weight",
                    "bias",
                    *(f"running_{m}_{t}" for m in ("mean", "var") for t in range(3)),
                )
            },
        }.items()
    }
    torch.save(tensors, folder / "other.pt")
    np.savez(folder / "other.npz", **{name: t.numpy() for name, t in tensors.items()})  # type: ignore[arg-type]
    safetensors.torch.save_file(tensors, folder / "other.safetensors")
    (folder / "layout.toml").write_text(layout_text("jihunchoi"))
    output, (h, c) = model(x)
    np.savez(
        folder / "recorded.npz",
        x=x.numpy(),
        output=output.detach().numpy(),
        h_n=h.detach().numpy(),
        c_n=c.detach().numpy(),
    )
    export(model, folder / "model.onnx")
    results = Session(folder / "model.onnx").run({"input": x.numpy()})
    np.savez(folder / "state.npz", **results)  # type: ignore[arg-type]

    def other(path: Path) -> str:
        return digest(import_checkpoint(path).model.state_dict())

    def own(path: Path) -> str:
        return digest(load(path.parent).state_dict())

    def layout(path: Path) -> str:
        return repr(parse_layout(path.read_text(errors="replace"), "fuzz", str(path)))

    def recorded(path: Path) -> str:
        return str(compare_recording(load(path.parent), read_recording(path)).axes)

    def state(path: Path) -> str:
        session = Session(path.parent / "model.onnx")
        feeds = read_state(path, session.signature)
        return digest(session.run({"input": x.numpy(), **feeds}))

    def graph(path: Path) -> str:
        return digest(Session(path).run({"input": x.numpy()}))

    return [
        Kind("other.pt", either(change_bytes, change_torch), other),
        Kind("other.pt", change_bytes, other, other(folder / "other.pt")),
        Kind("other.npz", either(change_bytes, change_arrays, bomb), other),
        Kind("other.npz", change_bytes, other, other(folder / "other.npz")),
        Kind("other.safetensors", change_bytes, other),
        Kind("model.safetensors", change_bytes, own),
        Kind("config.json", either(change_bytes, change_json), own),
        Kind("layout.toml", either(change_bytes, change_lines), layout),
        Kind("recorded.npz", either(change_bytes, change_arrays, bomb), recorded),
        Kind("state.npz", either(change_bytes, change_arrays, bomb), state),
        Kind("model.onnx", either(change_bytes, change_metadata), graph),
        Kind("model.onnx", change_bytes, graph, graph(folder / "model.onnx")),
    ]


def digest(arrays: Any) -> str:  # noqa: ANN401
    """Return what arrays hold, by name."""
    return "; ".join(f"{name} {np.asarray(held).tobytes().hex()}" for name, held in arrays.items())


def either(*changes: Change) -> Change:
    """Return a change that is one of several."""
    return lambda chance, path: chance.choice(changes)(chance, path)


def change_bytes(chance: random.Random, path: Path) -> None:
    """Flip, cut, repeat, insert and blank bytes."""
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        start = chance.randrange(len(content) + 1)
        end = min(len(content), start + chance.choice((1, 4, 100)))
        how = chance.randrange(5)
        if how == 0 and start < len(content):
            content[start] ^= 1 << chance.randrange(8)
        elif how == 1:
            del content[start : None if chance.random() < 0.3 else end]
        elif how == 2:
            content[start:start] = content[start:end] * chance.choice((1, 1000))
        elif how == 3:
            content[start:start] = chance.randbytes(chance.choice((1, 8, 64)))
        else:
            content[start:end] = bytes(end - start)
    path.write_bytes(content)


def change_torch(chance: random.Random, path: Path) -> None:
    """Change the tensors of a state dict, and what they are in."""
    tensors: dict[str, Any] = torch.load(path, weights_only=True)
    for _ in range(chance.choice((1, 2))):
        name = chance.choice(list(tensors))
        tensor = tensors[name]
        if not isinstance(tensor, torch.Tensor):
            continue
        tensors[name] = chance.choice(STRANGE_TENSORS)(tensor)
    key = f"{chance.choice(list(tensors)).rpartition('.')[0]}.{chance.choice(EVIL_KEYS)}"
    if chance.random() < 0.3:
        tensors[key] = torch.zeros(16)
    if chance.random() < 0.2:
        del tensors[chance.choice(list(tensors))]
    content: Any = tensors
    if chance.random() < 0.2:
        content = {"model": tensors, "ema": tensors, "optimizer": tensors}
        content["self"] = content
    for _ in range(chance.choice((0, 0, 0, 2, 5000))):
        content = {"deeper": content}
    sys.setrecursionlimit(10**6)
    torch.save(content, path, _use_new_zipfile_serialization=chance.random() < 0.7)
    sys.setrecursionlimit(1000)
    if chance.random() < 0.05:
        path.write_bytes(pickle.dumps(tensors) if chance.random() < 0.5 else b"text, no pickle")


def change_arrays(chance: random.Random, path: Path) -> None:
    """Change the arrays of an archive."""
    with np.load(path) as archive:
        arrays: dict[str, Any] = dict(archive)
    name = chance.choice(list(arrays))
    array = arrays[name]
    with np.errstate(all="ignore"):
        arrays[name] = chance.choice(STRANGE_ARRAYS)(array)
    if chance.random() < 0.3:
        arrays[chance.choice(EVIL_KEYS[:3])] = array
    if chance.random() < 0.2:
        del arrays[chance.choice(list(arrays))]
    np.savez(path, **arrays)
    if chance.random() < 0.05:
        with path.open("wb") as file:
            np.save(file, array)


def bomb(chance: random.Random, path: Path) -> None:
    """Declare, or pack, far more than a file holds."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (10 ** chance.randrange(8, 13), 16)}
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        if chance.random() < 0.3:
            for _ in range(300):
                file.write(bytes(10**6))


def change_json(chance: random.Random, path: Path) -> None:
    """Change a value of a configuration, or nest it deeply."""
    content = json.loads(path.read_text())
    part = content["rnn"] if chance.random() < 0.8 else content
    part[chance.choice(list(part))] = chance.choice(EVIL_NUMBERS)
    text = json.dumps(content)
    if chance.random() < 0.1:
        text = "[" * 100_000 + "]" * 100_000
    path.write_text(text)


def change_lines(chance: random.Random, path: Path) -> None:
    """Change the lines of a layout."""
    lines = path.read_text().splitlines()
    for _ in range(chance.choice((1, 2, 3))):
        number = chance.randrange(len(lines))
        key, equals, value = lines[number].partition("=")
        evil = chance.choice((*map(json.dumps, EVIL_NUMBERS), "[" * 100_000, "1" * 5000, "{a=1}"))
        twice, other = f"{key}=[{value},{value}]", f"{key}x{equals}{value}"
        lines[number] = chance.choice((f"{key}{equals}{evil}", "", lines[number] * 2, twice, other))
    path.write_text("\n".join(lines))


def change_metadata(chance: random.Random, path: Path) -> None:
    """Change a metadata property of an exported file, or its nodes."""
    proto = onnx.load(path)
    entry = chance.choice(proto.metadata_props)
    evil = (*map(str, EVIL_NUMBERS), "[" * 100_000, '{"a": 1}', "null")
    if entry.key != seal.KEY:
        entry.value = chance.choice(evil)
    if chance.random() < 0.3:
        del proto.graph.input[chance.randrange(len(proto.graph.input))]
    if chance.random() < 0.3:
        del proto.graph.output[chance.randrange(len(proto.graph.output))]
    path.write_bytes(seal.serialize(proto))


if __name__ == "__main__":
    typer.run(main)
