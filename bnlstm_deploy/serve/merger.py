"""Several requests as one run: their arrays padded and joined, and the results cut apart again.

Streams are independent of each other, so that requests are joined along the batch. Their steps may
differ, because each stream has a start step of its own, and in models that pad so may their T:
shorter ones are padded with zeros, and `lengths` says how far each goes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bnlstm_deploy.runtime import Session
from bnlstm_deploy.runtime.inputs import check_feeds
from bnlstm_deploy.signature import Array


class Size(NamedTuple):
    """The size of a request."""

    streams: int
    """N."""
    time: int
    """T; 0 for a model without timesteps in its own inputs."""


class Merger:
    """Joins and separates what is fed to one session.

    Args:
        session: The session; it is run once to learn the initial states of the model.

    Attributes:
        merges: Whether requests can share a run at all.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        signature = session.signature
        self._batch_axes, self._time_axes = signature.batch_axes, signature.time_axes
        self._lengths, self._pads = signature.lengths, signature.pads
        own = (*session.inputs, *session.outputs)
        self.merges = all(value.name in self._batch_axes for value in own)
        self._defaults = signature.initial(session.run) if self.merges else {}

    def check(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the arrays of a request as the graph takes them: unrolled graphs get padding.

        Raises:
            InputError: They do not fit the graph.
        """
        session, length = self.session, self.session.metadata.length
        own = [value.name for value in session.inputs]
        checked = dict(feeds)
        if length is not None and self._pads and set(own) <= feeds.keys():
            time = self.size(feeds).time
            if 0 < time < length:
                streams = self.size(feeds).streams
                for name in self._lengths:
                    checked.setdefault(name, np.full(streams, time))
                for name in own:
                    checked[name] = self._padded(name, feeds[name], length)
        check_feeds(checked, session.signature)
        return checked

    def size(self, feeds: Mapping[str, Array]) -> Size:
        """Return N and T of a request; of arrays that do not fit the graph anything."""
        streams, time = 1, 0
        for value in self.session.inputs:
            shape = np.shape(feeds[value.name])
            batch, axis = self._batch_axes.get(value.name), self._time_axes.get(value.name)
            if batch is not None and batch < len(shape):
                streams = shape[batch]
            if axis is not None and axis < len(shape):
                time = shape[axis]
        return Size(streams, time)

    def key(self, feeds: Mapping[str, Array]) -> tuple[object, ...]:
        """Return what requests have in common that can share a run.

        In models that pad that is T to the next power of two: of what is computed less than half is
        padding. Others share T itself. Axes of other names must be equal.
        """
        time = self.size(feeds).time
        rounded = max(time - 1, 0).bit_length() if self._pads else time
        rest = [
            size
            for value in self.session.inputs
            for axis, size in enumerate(feeds[value.name].shape)
            if axis not in (self._batch_axes.get(value.name), self._time_axes.get(value.name))
        ]
        return (rounded, *rest)

    def run_bytes(self, size: Size) -> int:
        """Return what a run of a request may take, padded as far as others of its key are long."""
        time = 1 << max(size.time - 1, 0).bit_length() if self._pads and self.merges else size.time
        return self.session.signature.run_bytes(size.streams, time)

    def merge(self, requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Return the arrays of one run, with the streams of the requests in order.

        An optional input that none of the requests has is left out, as long as their T are equal.
        """
        if len(requests) == 1:
            return dict(requests[0])
        sizes = [self.size(request) for request in requests]
        time = max(size.time for size in sizes)
        names = {name for request in requests for name in request}
        if any(size.time != time for size in sizes):
            names.update(self._lengths)
        return {
            name: np.concatenate(
                [
                    self._filled(name, request, size, time)
                    for request, size in zip(requests, sizes, strict=True)
                ],
                axis=self._batch_axes[name],
            )
            for name in names
        }

    def split(self, results: Mapping[str, Array], sizes: Sequence[Size]) -> list[dict[str, Array]]:
        """Return the results of each request: copies, which keep no others alive."""
        ends = np.cumsum([size.streams for size in sizes])
        parts: list[dict[str, Array]] = [{} for _ in sizes]
        for name, array in results.items():
            index: list[slice] = [slice(None)] * array.ndim
            batch, time = self._batch_axes.get(name), self._time_axes.get(name)
            for part, size, end in zip(parts, sizes, ends, strict=True):
                if batch is not None:
                    index[batch] = slice(end - size.streams, end)
                if time is not None:
                    index[time] = slice(size.time)
                cut = array[tuple(index)]
                part[name] = cut if cut.shape == array.shape else cut.copy()
        return parts

    def _filled(self, name: str, request: Mapping[str, Array], size: Size, time: int) -> Array:
        """Return a request's input padded to T, or what stands for an optional one left out."""
        if name in request:
            return self._padded(name, request[name], time)
        if name in self._lengths:
            return np.full(size.streams, size.time)
        default = self._defaults[name]
        return np.repeat(default, size.streams, axis=self._batch_axes[name])

    def _padded(self, name: str, array: Array, time: int) -> Array:
        axis = self._time_axes.get(name)
        if axis is None or array.shape[axis] >= time:
            return array
        shape = list(array.shape)
        shape[axis] = time
        padded = np.zeros(shape, array.dtype)
        padded[tuple(slice(size) for size in array.shape)] = array
        return padded
