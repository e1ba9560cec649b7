"""Buckets: sequences of all sizes, in a few fixed ones that memory and CUDA graphs are made for."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bnlstm_deploy.errors import InputError, RuntimeSessionError
from bnlstm_deploy.runtime.binding import Binding
from bnlstm_deploy.runtime.files import by_length, check_one_model, open_files
from bnlstm_deploy.runtime.inputs import check_feeds
from bnlstm_deploy.runtime.providers import Provider
from bnlstm_deploy.signature import BATCH, TIME, Array, Lengths, States, common

T = TypeVar("T")


class Bucket(NamedTuple):
    """A fixed size."""

    time: int
    batch: int


class Buckets:
    """Runs whole sequences of any number of streams and timesteps up to the largest bucket's.

        buckets = Buckets("model.onnx", lengths=(64, 128), providers=("cuda",))
        buckets.warm_up()
        output, state = buckets(x)  # as a Session gives them

    A call goes to the smallest bucket that it fits: the shortest, and of those the one with the
    fewest streams. It is padded with zeros, the valid timesteps are passed as `lengths`, and what
    comes back is cut to the call's own size. Each bucket is a `Binding`.

    On CUDA, files that the native kernel runs, or of the form `unrolled`, are captured as CUDA
    graphs: each bucket once, and once more with a given state, at its first call or in `warm_up`.
    From then on a call launches one graph.

    Several threads may call at a time: calls of different buckets run side by side, or one after
    the other on a thread of their own where they are captured, as graphs belong to a thread.

    Args:
        paths: One file with dynamic time, or files of one model unrolled for different lengths
            (`bnlstm-deploy convert --target cuda --length T`).
        batches: N of the buckets.
        lengths: T of the buckets, for a file with dynamic time.
        providers: Execution providers, as for a Session.
        capture: Whether CUDA graphs are captured; by default where that is possible.
        max_buckets: Bindings that are kept; those used least recently are dropped. Captured ones
            are kept forever, so there more buckets than this are an error.

    Attributes:
        sizes: The buckets, as (T, N), shortest first.
        captures: Whether CUDA graphs are captured.

    Raises:
        RuntimeSessionError: A file or a provider cannot be used, the files are not of one model,
            the buckets are too many to capture, or the graphs cannot be captured.
        InputError: The lengths or batches are not positive, or do not belong to the files.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        batches: Sequence[int] = (1, 8, 32),
        lengths: Sequence[int] | None = None,
        providers: Sequence[Provider] = ("cuda",),
        capture: bool | None = None,
        max_buckets: int = 16,
    ) -> None:
        files = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
        if not files or not batches or min(batches) < 1 or max_buckets < 1:
            raise InputError(
                f"{len(files)} files, batches {tuple(batches)}, max_buckets {max_buckets}; pass a "
                "file, and batches and max_buckets of at least 1"
            )
        sessions, self.captures = open_files(files, providers, capture)
        check_one_model(files, sessions)
        self._sessions = by_length(files, sessions, lengths)
        self.sizes = tuple(
            itertools.starmap(Bucket, itertools.product(sorted(self._sessions), sorted({*batches})))
        )
        if self.captures and len(self.sizes) > max_buckets:
            raise RuntimeSessionError(
                f"{len(self._sessions)} lengths and {len({*batches})} batches are "
                f"{len(self.sizes)} buckets, each a captured graph with memory of its own; "
                f"max_buckets is {max_buckets}. Pass fewer, or a larger max_buckets"
            )
        self._signature = common([session.signature for session in sessions])
        pads = sessions[0].signature.pads
        self._obstacle = "" if pads else "the model's outputs are others if time is padded"
        self._max_buckets = max_buckets
        self._bindings: OrderedDict[Bucket, Binding] = OrderedDict()
        self._lock = threading.Lock()
        # Captures and replays of one session belong on one thread, and a capture tolerates no other
        # use of CUDA beside it: one thread does for all sessions.
        self._thread = ThreadPoolExecutor(1, "bnlstm-graphs") if self.captures else None
        self._graphs = itertools.count(1) if self.captures else None

    def __call__(
        self,
        *inputs: Array,
        state: States | None = None,
        lengths: Lengths | None = None,
    ) -> tuple[Any, Any]:
        """Run the model over N whole sequences.

        Args:
            inputs: The model's own inputs, in order, in the graph's dtypes.
            state: The state to start from; the initial one by default.
            lengths: (N,) int64, 0..T: the valid timesteps of each stream; T by default.

        Returns:
            The model's own output, an array or a tuple of several, and the state after the inputs,
            as a Session returns them.

        Raises:
            InputError: The inputs do not fit the graph or any bucket.
            RuntimeSessionError: ONNX Runtime fails on the graph.
        """
        own = next(iter(self._sessions.values())).signature
        feeds = own.feeds(*inputs, state=state, lengths=lengths)
        try:
            check_feeds(feeds, own if self._signature is None else self._signature)
        except InputError as error:
            if self._signature is not None:
                raise
            raise InputError(f"{error} (nothing is padded here: {self._obstacle})") from error
        sizes = {TIME: self.sizes[0].time, **(self._signature or own).sizes(feeds)}
        bucket = self._choose(sizes[TIME], sizes[BATCH])
        return self._on_thread(partial(self._run, bucket, feeds, sizes))

    def warm_up(self) -> None:
        """Run each bucket once from the initial state, on zeros: this allocates, and captures.

        Without captures, only as many of the largest buckets as are kept.

        Raises:
            RuntimeSessionError: ONNX Runtime fails on a graph, or memory cannot be allocated.
        """
        for bucket in self.sizes[-self._max_buckets :]:
            self._on_thread(partial(self._warm_up, bucket))

    def _on_thread(self, function: Callable[[], T]) -> T:
        return function() if self._thread is None else self._thread.submit(function).result()

    def _warm_up(self, bucket: Bucket) -> None:
        binding = self._binding(bucket)
        with binding.lock:
            binding.reset()
            binding.run({})

    def _run(
        self, bucket: Bucket, feeds: Mapping[str, Array], sizes: Mapping[str, int]
    ) -> tuple[Any, Any]:
        session = self._sessions[bucket.time]
        outputs = (self._signature or session.signature).outputs
        results = self._binding(bucket).run_once(feeds, sizes, (*outputs, *session.state_outputs))
        return session.signature.output(results), session.signature.state(results)

    def _binding(self, bucket: Bucket) -> Binding:
        """Return the bucket's binding, and drop the one used least recently for a new one."""
        with self._lock:
            if bucket not in self._bindings:
                if len(self._bindings) == self._max_buckets:
                    self._bindings.popitem(last=False)
                session = self._sessions[bucket.time]
                self._bindings[bucket] = Binding(
                    session, bucket.batch, bucket.time, graphs=self._graphs
                )
            self._bindings.move_to_end(bucket)
            return self._bindings[bucket]

    def _choose(self, time: int, batch: int) -> Bucket:
        """Return the smallest bucket that a call fits."""
        lengths = sorted(self._sessions)
        if self._obstacle:
            if time not in lengths:
                raise InputError(
                    f"the input has {time} timesteps and the buckets have {lengths}; it must have "
                    f"one of these exactly, as {self._obstacle}"
                )
            lengths = [time]
        fitting = [b for b in self.sizes if b.time >= time and b.time in lengths]
        if not fitting:
            raise InputError(
                f"the input has {time} timesteps, the longest bucket {lengths[-1]} of {lengths}; "
                "add one: a file that is exported for a larger length, or another of "
                "lengths= for a file with dynamic time"
            )
        fitting = [b for b in fitting if b.batch >= batch]
        if not fitting:
            raise InputError(
                f"the input has {batch} streams, the largest bucket {self.sizes[-1].batch}; pass "
                f"fewer at a time, or a larger one in batches="
            )
        return fitting[0]
