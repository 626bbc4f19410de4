"""Token budgets that are halved when memory runs out, so that a step is repeated in smaller pieces instead of being lost.

How tokens are divided into pieces changes sums by rounding only.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch

from visurf import parallel

LOG = logging.getLogger("visurf")
T = TypeVar("T")
# What says that memory ran out, but has no error of its own: PyTorch's allocator of host memory, on Linux and macOS and on Windows;
# CUDA where another process took what was left; CUDA's libraries, which need room beside the allocator.
_SAID = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


class MemoryShortage(RuntimeError):
    """Memory ran out and no smaller piece would help; says what to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Say what to change where memory runs out in a block that cannot be divided.

    Raises:
        MemoryShortage: In place of the error.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortage(f"memory ran out: {what} ({_first_line(error)}). {remedy}") from error


class Budget:
    """A token budget of one process.

    Attributes:
        name: The setting.
        start: Its value.
        halvings: How often it was halved; a run that goes on keeps them.
    """

    def __init__(self, name: str, start: int) -> None:
        """The whole budget."""
        self.name, self.start, self.halvings = name, start, 0

    @property
    def tokens(self) -> int:
        """The budget as it is now."""
        return max(self.start >> self.halvings, 1)

    def fitted(self, attempt: Callable[[], T], failed: Callable[[], int], what: str, remedy: str, *, together: bool) -> T:
        """Run something under the budget; where memory runs out, halve the budget and run it again.

        The budget stays as it was where that does not help either.

        Args:
            attempt: To be run; reads `tokens`, and leaves nothing behind when it fails.
            failed: Tokens of the piece that failed; 0 where it was the smallest piece there is.
            what: The smallest piece, for the message.
            remedy: What to change where that does not fit.
            together: All processes run it, and again if it failed on one; each of them has kept step with the others then.

        Raises:
            MemoryShortage: The smallest piece does not fit.
            OtherProcessError: It does not on another process, or the attempt failed there.
        """
        before = self.halvings
        try:
            while True:
                size = 0
                with parallel.agreed() if together else nullcontext():
                    try:
                        found = attempt()
                    except Exception as error:
                        if not is_out_of_memory(error):
                            raise
                        size = failed()
                        if not size or self.tokens == 1:
                            raise MemoryShortage(f"memory ran out: {what} does not fit ({_first_line(error)}). {remedy}") from error
                size = max(parallel.gather([size])) if together else size
                if not size:
                    return found
                self._halve(size)
        except Exception:
            self.halvings = before
            raise

    def agree(self) -> None:
        """Take the smallest budget of all processes."""
        self.halvings = max(parallel.gather([self.halvings]))

    def report(self) -> dict[str, float]:
        """The budget as a metric, where it is no longer the setting's."""
        return {f"memory/{self.name.rpartition('.')[2]}": float(self.tokens)} if self.halvings else {}

    def _halve(self, size: int) -> None:
        """Halve the budget until a piece of so many tokens is over it."""
        before = self.tokens
        while self.tokens == before or self.tokens >= size > 1:
            self.halvings += 1
        LOG.warning("memory ran out: %s is %d from here on, it was %d; the step is repeated", self.name, self.tokens, before)
        # The failed attempt's tensors are held by its frames until these are collected.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
