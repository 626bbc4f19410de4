"""Images read and encoded in background threads, while the device is busy with the step before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from visurf.types import Sample

if TYPE_CHECKING:
    from visurf.models.family import EncodedImages

Read = Callable[[Sample], "EncodedImages"]


# Samples that each thread may have read and nobody taken: what bounds the memory.
READY = 4


class ReadAhead:
    """Threads that encode the images of samples to come; decoding and resizing leave Python's lock.

    What comes out does not depend on the threads: each sample is encoded by itself.
    """

    def __init__(self, workers: int) -> None:
        """So many threads, started when there is something to do."""
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="visurf-images")
        self._most = READY * workers
        self._waiting: OrderedDict[int, Sample] = OrderedDict()
        self._started: dict[int, tuple[Sample, Future[EncodedImages]]] = {}

    def start(self, samples: Sequence[Sample], read: Read) -> None:
        """Encode these samples next, in order; others that were started and not taken are dropped."""
        wanted = OrderedDict((id(s), s) for s in samples)
        for key in [k for k in self._started if k not in wanted]:
            self._started.pop(key)[1].cancel()
        self._waiting = OrderedDict((key, s) for key, s in wanted.items() if key not in self._started)
        self._fill(read)

    def take(self, sample: Sample, read: Read) -> EncodedImages:
        """What was made of a sample's images, or is made of them now.

        Raises:
            DataError: An image cannot be read.
        """
        key = id(sample)
        if self._waiting.pop(key, None) is not None or key not in self._started:
            return read(sample)
        found = self._started.pop(key)[1].result()
        self._fill(read)
        return found

    def _fill(self, read: Read) -> None:
        while self._waiting and len(self._started) < self._most:
            key, sample = self._waiting.popitem(last=False)
            self._started[key] = (sample, self._pool.submit(read, sample))
