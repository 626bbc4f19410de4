"""Comparing answers with symbolic libraries, in a worker process that is killed when it takes too long.

The libraries parse text that a model wrote and may run for minutes on it. Signals only interrupt the main thread and never
native code, so they are run in a process of their own, which is kept for the next call and replaced after a time-out. One
worker serves all threads of a process, one call at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import IO, Any, Literal

Kind = Literal["grade", "symbolic", "boxed_equal", "repair"]

# Starting Python and importing a symbolic library on a busy machine; not part of the time limit of a comparison.
START_LIMIT_S = 120.0


class GradingTimeout(TimeoutError):
    """A comparison was stopped at its time limit."""


class GradingError(ValueError):
    """A grading library failed on its input."""


class _Worker:
    """A running worker process and the thread that reads its replies."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "visurf.rewards.grading_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input: IO[str] = self.process.stdin
        self.replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.replies.put(line)
        # An empty reply tells a waiting caller that the process is gone.
        self.replies.put("")

    def alive(self) -> bool:
        # After a fork the handle is a copy: the process belongs to the parent.
        return self.owner == os.getpid() and self.process.poll() is None

    def stop(self) -> None:
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(OSError):
                self.input.close()


_lock = threading.Lock()
_worker: _Worker | None = None


def ask(kind: Kind, first: str, second: str, *, limit_s: float = 10.0) -> Any:
    """Ask the worker one question.

    Args:
        kind: ``grade``: whether mathruler grades the answer `first` equal to the truth `second`. ``symbolic``: whether
            math-verify finds any expressions of the two equal; its failures mean no. ``boxed_equal``: whether the last
            boxed content of `first` equals `second` after normalisation. ``repair``: `first` as repaired JSON text.
        first: The answer.
        second: The truth; not used by ``repair``.
        limit_s: Seconds the question may take, imports not counted.

    Raises:
        GradingTimeout: The limit was exceeded; the worker was killed, and the next call starts another.
        GradingError: The library failed on this input.
        ImportError: The library is not installed.
    """
    global _worker
    with _lock:
        if _worker is None or not _worker.alive():
            _worker = _Worker()
        try:
            _worker.input.write(json.dumps([kind, first, second]) + "\n")
            _worker.input.flush()
            reply = _reply(_worker, START_LIMIT_S)
            if reply.get("ready"):
                reply = _reply(_worker, limit_s)
        except (GradingTimeout, OSError) as error:
            _worker.stop()
            _worker = None
            if isinstance(error, GradingTimeout):
                raise GradingTimeout(f"{kind} took longer than {limit_s} s on {first[:80]!r}") from None
            raise GradingError(f"the grading process ended: {error}") from error
    if "missing" in reply:
        raise ImportError(f"grading needs {reply['missing']}: pip install -e '.[grading]' in a clone of visurf")
    if "error" in reply:
        raise GradingError(str(reply["error"]))
    return reply["value"]


def stop() -> None:
    """End the worker process; the next call starts another."""
    global _worker
    with _lock:
        if _worker is not None:
            _worker.stop()
        _worker = None


def _reply(worker: _Worker, limit_s: float) -> dict[str, Any]:
    try:
        line = worker.replies.get(timeout=limit_s)
    except queue.Empty:
        raise GradingTimeout from None
    if not line:
        raise OSError("no reply")
    reply: dict[str, Any] = json.loads(line)
    return reply


def _forget() -> None:
    # The lock may be held, and the worker belongs to the parent: a forked child starts with neither.
    global _lock, _worker
    _lock, _worker = threading.Lock(), None


atexit.register(stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
