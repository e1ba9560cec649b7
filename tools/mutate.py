"""Put small faults into the core rooms, one at a time, and say which of them no test notices.

python -m tools.mutate bnlstm_deploy/folding --mutants 50

Cosmic Ray makes them: another operator, another number, a condition turned around, a loop left out.
A room has thousands, so that a sample is drawn; with the same seed it is the same. The tests that
run a mutant's lines come first, the shortest first, which notice most of them at once; then all
fast ones of the room.
"""

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome
from coverage import CoverageData
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parents[1]

TESTS = {
    "nn": ["tests/nn"],
    "folding": ["tests/folding", "tests/exporting/test_forms.py"],
    "exporting": ["tests/exporting"],
    "runtime": ["tests/runtime"],
    "verification": ["tests/verification"],
}
"""The tests that are near each room."""

UNIONS = "BitOr"
"""Operators with it in their names also change unions of types, of which no test can know."""

SAME = ("_Eq_Is", "_NotEq_IsNot", "_Is_Eq", "_IsNot_NotEq")
"""Operators that put identity for equality, or the other way around."""

PYTEST = f"{sys.executable} -m pytest -x -q -p no:cacheprovider -m 'not slow'"

MEASURED = (
    "--numprocesses=auto --cov=bnlstm_deploy --cov-context=test --cov-report= --durations=0 "
    "--durations-min=0"
)

TOOK = re.compile(r"^([0-9.]+)s (?:setup|call|teardown) +(.*)$", re.MULTILINE)
"""A line of pytest's durations."""

SURVIVORS = 0.05
"""The part of mutants that may survive."""

SLOWER, START = 4.0, 60.0
"""Times longer that tests may take with a mutant, and seconds more; what never ends is noticed."""


def main(
    room: Annotated[Path, typer.Argument(help="A room, or a file in it.")],
    mutants: Annotated[int, typer.Option(help="How many to draw.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Print the mutants that survive; exit status 1 if there are too many."""
    name = room.parts[1]
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        os.chdir(folder)
        drawn = list(draw(room, mutants, seed))
        with console.status("Running all tests without a mutant"):
            took = durations(TESTS[name])
        everything = Tests(["--numprocesses=auto", *TESTS[name]], sum(took.values()))
        survivors = 0
        for item in track(drawn, console=console):
            for tests in (covering(item.mutations[0], took), everything):
                if not tests.names:
                    continue
                Path("tests.txt").write_text("\n".join(tests.names))
                limit = SLOWER * tests.seconds + START
                result = mutate_and_test(item.mutations, f"{PYTEST} @tests.txt", limit)
                if result.test_outcome is not TestOutcome.SURVIVED:
                    break
            if result.test_outcome is TestOutcome.SURVIVED:
                survivors += 1
                console.print(result.diff, markup=False, highlight=False)
    console.print(f"{survivors} of {len(drawn)} mutants of {room} survived")
    if survivors > SURVIVORS * len(drawn):
        raise typer.Exit(1)


class Tests(NamedTuple):
    """What pytest is to run, and how long it takes one after the other."""

    names: list[str]
    seconds: float


def durations(tests: list[str]) -> dict[str, float]:
    """Run tests, noting in .coverage which lines each runs; return the seconds that each takes."""
    command = [*shlex.split(f"{PYTEST} {MEASURED}"), *tests]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{result.stdout}\nerror: the tests fail without a mutant: {shlex.join(command)}")
    took: defaultdict[str, float] = defaultdict(float)
    for seconds, name in TOOK.findall(result.stdout):
        took[name] += float(seconds)
    return took


def covering(mutation: Any, took: dict[str, float]) -> Tests:  # noqa: ANN401
    """Return the tests that run the lines of a mutant, the shortest first."""
    data = CoverageData()
    data.read()
    contexts = data.contexts_by_lineno(str(mutation.module_path.resolve()))
    lines = range(mutation.start_pos[0], mutation.end_pos[0] + 1)
    names = {context.rpartition("|")[0] for line in lines for context in contexts.get(line, ())}
    known = sorted(names & took.keys(), key=lambda name: took[name])
    return Tests(known, sum(took[name] for name in known))


def copy(folder: Path) -> None:
    """Copy the checkout with its native library: what is mutated is nobody's work."""
    command = ["git", "ls-files", "-z"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    libraries = (ROOT / "bnlstm_deploy" / "native").glob("*bnlstm.*")
    tracked = [Path(name) for name in files.split("\0") if name]
    for path in [*tracked, *(library.relative_to(ROOT) for library in libraries)]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)


def draw(room: Path, number: int, seed: int) -> Iterator[Any]:
    """Yield a sample of the mutants of a room, in the order of its lines."""
    files = sorted(room.rglob("*.py")) if room.is_dir() else [room]
    with use_db(":memory:", WorkDB.Mode.create) as database:
        init(files, database, {})
        items = [item for item in database.pending_work_items if not equivalent(item.mutations[0])]
    items.sort(key=lambda item: place(item.mutations[0]))  # they come in the order of random ids
    chosen = random.Random(seed).sample(items, min(number, len(items)))
    yield from sorted(chosen, key=lambda item: place(item.mutations[0]))


def place(mutation: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Return where a mutant is, and which of those there."""
    return (
        *(mutation.module_path, mutation.start_pos),
        *(mutation.operator_name, mutation.occurrence, str(mutation.operator_args)),
    )


def equivalent(mutation: Any) -> bool:  # noqa: ANN401
    """Return whether a mutant is none that a test could know.

    It changes a union of types, the `*` before arguments with names, `==` to `is` of numbers that
    Python has once, or what only guards against mistakes of this code itself: `strict=True`,
    `frozen=True`.
    """
    row, column = mutation.start_pos
    line = mutation.module_path.read_text().splitlines()[row - 1]
    return (
        UNIONS in mutation.operator_name
        or mutation.operator_name.endswith(SAME)
        or line[column:].startswith("*,")
        or line[:column].endswith(("strict=", "frozen="))
    )


if __name__ == "__main__":
    typer.run(main)
