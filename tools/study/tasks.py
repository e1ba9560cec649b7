"""What is learned: minibatches, losses and what a model is judged by."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bnlstm_deploy.nn.bnlstm import State
from tools.study import data
from tools.study.models import Experiment, Model


class Batch(NamedTuple):
    """A minibatch. Where it goes on with the streams of the one before, `step` is above 0."""

    x: Tensor
    """(N, T, D)."""
    y: Tensor
    """(N,), or (N, T)."""
    step: int = 0


@dataclass(frozen=True)
class Sizes:
    """How large a task is and how long it is trained."""

    length: int
    hidden_size: int
    batch_size: int
    epochs: int
    iterations: int
    """Minibatches of an epoch, at most."""
    learning_rate: float


Runs = Callable[[Tensor, State | None, int], tuple[Tensor, State]]
"""Takes x, a state and the step at which x begins; returns output and state. A Model is one."""


class Task(ABC):
    """A data set and a loss.

    Attributes:
        name: As on the command line.
        title: For figures.
        metric: What it is judged by.
        higher_is_better: Whether more of it is better.
        features: D.
        outputs: Of the head.
        every: Whether the head reads every timestep.
    """

    name: str
    title: str
    metric: str
    higher_is_better: bool
    features: int
    outputs: int
    every = False

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    def model(self, experiment: Experiment) -> Model:
        """Return a new model, with random weights of torch's generator."""
        size, length = self.sizes.hidden_size, self.sizes.length
        return Model(experiment, self.features, size, length, self.outputs, self.every)

    @abstractmethod
    def train(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield the minibatches of one epoch."""

    @abstractmethod
    def held_out(self, part: str) -> Iterator[Batch]:
        """Yield all of "validation" or "test", in minibatches of the size of training."""

    @abstractmethod
    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the mean over a minibatch that training makes small."""

    def score(self, output: Tensor, y: Tensor) -> float:
        """Return the sum of the metric over a minibatch's targets; the loss's by default."""
        return self.loss(output, y).item() * y.numel()

    def measure(self, model: Runs, part: str) -> float:
        """Return the metric over a part, whatever mode the model is in."""
        total = count = 0.0
        with torch.no_grad():
            for output, y in run(model, self.held_out(part)):
                total += self.score(output, y)
                count += y.numel()
        return total / count


def run(model: Runs, batches: Iterator[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield output and targets of each minibatch, carrying states where streams go on."""
    state: State | None = None
    for x, y, step in batches:
        if state is not None:
            state = None if step == 0 else (state[0].detach(), state[1].detach())
        output, state = model(x, state, step)
        yield output, y


def minibatches(
    part: data.Part, size: int, generator: torch.Generator | None, most: int | None = None
) -> Iterator[Batch]:
    """Yield minibatches in random order, or in order; a smaller rest is left out of the former."""
    count = len(part.y)
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    starts = range(0, count if generator is None else count - size + 1, size)
    for start in starts[:most]:
        rows = order[start : start + size]
        yield Batch(part.x[rows], part.y[rows])


class Classify(Task):
    """Which digit is it?"""

    metric, higher_is_better = "accuracy", True
    features, outputs = 1, 10

    def __init__(self, sizes: Sizes, name: str, title: str, load: Callable[[], data.Parts]) -> None:
        super().__init__(sizes)
        self.name, self.title, self.load = name, title, load

    def train(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield shuffled minibatches."""
        part = self.load().train
        return minibatches(part, self.sizes.batch_size, generator, self.sizes.iterations)

    def held_out(self, part: str) -> Iterator[Batch]:
        """Yield minibatches in order."""
        return minibatches(getattr(self.load(), part), self.sizes.batch_size, None)

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(output, y)

    def score(self, output: Tensor, y: Tensor) -> float:
        """Return how many are right."""
        return (output.argmax(1) == y).sum().item()


class Adding(Task):
    """The sum of two marked numbers; new sequences at every epoch."""

    metric, higher_is_better = "mean squared error", False
    features, outputs = 2, 1

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.name = "adding" if sizes.length == 100 else f"adding-{sizes.length}"
        self.title = f"Adding problem, T = {sizes.length}"

    def train(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield minibatches of new sequences."""
        for _ in range(self.sizes.iterations):
            yield Batch(*data.adding(self.sizes.length, self.sizes.batch_size, generator))

    def held_out(self, part: str) -> Iterator[Batch]:
        """Yield 1,000 sequences, always the same."""
        generator = torch.Generator().manual_seed({"validation": 10_001, "test": 10_002}[part])
        whole = data.adding(self.sizes.length, 1000, generator)
        return minibatches(whole, self.sizes.batch_size, None)

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the mean squared error."""
        return F.mse_loss(output[:, 0], y)


class Characters(Task):
    """The next character; streams go on from minibatch to minibatch with their states and steps."""

    name, title = "characters", "Characters of Wikipedia"
    metric, higher_is_better = "bits a character", False
    features = outputs = len(data.ALPHABET)
    every = True
    HELD_OUT = 100_000
    """Characters of validation, and of test."""

    def streams(self, text: Tensor, chunks: int | None) -> Iterator[Batch]:
        """Cut a text into N streams, and yield chunks of T characters of each."""
        time, batch = self.sizes.length, self.sizes.batch_size
        rows = text[: (len(text) - 1) // batch * batch + 1]
        x, y = rows[:-1].view(batch, -1), rows[1:].view(batch, -1)
        for step in range(0, x.shape[1] - time + 1, time)[:chunks]:
            part = slice(step, step + time)
            one_hot = F.one_hot(x[:, part], self.features).float()
            yield Batch(one_hot, y[:, part], step)

    def train(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield a stretch of the text from a random beginning, in N streams."""
        text = data.text()[: -2 * self.HELD_OUT]
        need = self.sizes.iterations * self.sizes.length * self.sizes.batch_size + 1
        start = int(torch.randint(len(text) - need, (), generator=generator))
        return self.streams(text[start : start + need], None)

    def held_out(self, part: str) -> Iterator[Batch]:
        """Yield it in N streams."""
        text = data.text()[-2 * self.HELD_OUT :]
        half = slice(0, self.HELD_OUT) if part == "validation" else slice(self.HELD_OUT, None)
        return self.streams(text[half], self.sizes.iterations)

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the cross-entropy in bits."""
        return F.cross_entropy(output.flatten(0, 1), y.flatten()) / math.log(2)


def tasks(*, quick: bool = False) -> dict[str, Task]:
    """Return all tasks by name; the quick ones are for tests, not for conclusions."""
    digits = Sizes(64, 64, 100, 40, 12, 3e-3)
    permuted_mnist = Sizes(784, 100, 100, 20, 40, 3e-3)
    adding = Sizes(100, 64, 50, 15, 80, 3e-3)
    text = Sizes(100, 128, 32, 6, 150, 3e-3)
    if quick:
        digits = replace(digits, hidden_size=8, epochs=2)
        permuted_mnist = replace(permuted_mnist, hidden_size=4, epochs=1, iterations=1)
        adding = replace(adding, hidden_size=8, epochs=2, iterations=2)
        text = replace(text, hidden_size=8, epochs=2, iterations=2)
    found: list[Task] = [
        Classify(digits, "digits", "Permuted digits", lambda: data.small_digits(True)),
        Classify(digits, "sequential-digits", "Digits in order", lambda: data.small_digits(False)),
        Classify(permuted_mnist, "permuted-mnist", "Permuted MNIST (a subset)", data.mnist),
        Adding(adding),
        Adding(replace(adding, length=adding.length * 4)),
        Characters(text),
    ]
    return {task.name: task for task in found}
