"""Rollouts from one or several servers: requests are spread; one that is lost is reported, awaited and given weights again."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from visurf import parallel
from visurf.models.family import Prompt
from visurf.rollout.transfer import Transfer, holds
from visurf.rollout.types import Rollout
from visurf.rollout.vllm import Drawing, Server, ServerLost, Weights

LOG = logging.getLogger(__name__)
# Seconds between two looks at a server that is away.
PAUSE = 1.0


@dataclass(frozen=True)
class Limits:
    """Bounds of what is asked.

    Attributes:
        requests: Prompts that one server is asked at once.
        patience: Seconds that a lost server is waited for.
    """

    requests: int = 32
    patience: float = 600.0


class Servers:
    """Servers that all answer with the same weights.

    Attributes:
        lost: How often one was lost since the last `report`.
        pushes: How often one was given weights since then.
    """

    def __init__(self, servers: Sequence[Server], transfer: Transfer, limits: Limits) -> None:
        """Take the servers and a way of weights to them."""
        self.servers, self.transfer, self.limits = list(servers), transfer, limits
        self.lost = self.pushes = 0
        # A server that keeps running from another run must not be taken to have this one's weights.
        self.run, self.count = uuid.uuid4().hex[:8], 0
        self.weights: Weights | None = None
        self.stopping = threading.Event()
        self._giving = threading.Lock()

    def push(self) -> None:
        """Publish the policy's weights and give them to every server that is there; all processes take part."""
        self.count += 1
        self.weights = self.transfer.publish(parallel.gather([f"{self.run}-{self.count}"])[0])
        with parallel.agreed():
            if parallel.rank() == 0:
                for server in self.servers:
                    try:
                        self._give(server, self.weights)
                    except ServerLost as error:
                        # The others can go on; `draw` waits for it.
                        self._say_lost(server, error)

    def draw(self, prompts: Sequence[Prompt], members: int, drawing: Drawing, seeds: Sequence[int]) -> list[list[Rollout]]:
        """Rollouts of every prompt, in order.

        Args:
            prompts: Each is one request, to whichever server has room.
            members: Rollouts of each.
            drawing: How to draw.
            seeds: Of each prompt.

        Raises:
            ServerLost: No server came back in time.
            ServerMismatch: A server serves something else.
        """
        assert self.weights is not None, "weights are pushed before anything is drawn"
        weights = self.weights

        def ask(server: Server, i: int) -> list[Rollout]:
            return server.generate(prompts[i], members, drawing, seeds[i], weights)

        work = Work(len(prompts), ask, self.stopping)
        # All before any begins: the work fails when the last of them leaves.
        work.tenders = {server.address for server in self.servers}
        tending = [threading.Thread(target=self._tend, args=(s, work, weights), daemon=True) for s in self.servers]
        for thread in tending:
            thread.start()
        for thread in tending:
            thread.join()
        return work.results()

    def report(self) -> dict[str, float]:
        """What happened since the last call."""
        found = {"rollout/servers_lost": float(self.lost), "rollout/pushes": float(self.pushes)}
        self.lost = self.pushes = 0
        return found

    def close(self) -> None:
        """End what is being drawn, and let go of the servers; they go on running."""
        self.stopping.set()
        self.transfer.close()
        for server in self.servers:
            server.close()

    def _tend(self, server: Server, work: Work, weights: Weights) -> None:
        """Keep one server busy until the work is done; several threads ask it at once."""
        try:
            while not work.over():
                if not self._ready(server, work, weights):
                    return
                work.serving(server)
                lost: list[ServerLost] = []
                asking = min(self.limits.requests, work.count)
                workers = [threading.Thread(target=work.through, args=(server, lost), daemon=True) for _ in range(asking)]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                if lost:
                    work.serving(server, now=False)
                    self._say_lost(server, lost[0])
        except Exception as error:  # noqa: BLE001 - raised again by `Work.results`, in the thread that waits
            work.fail(error)
        finally:
            work.left(server, self.limits.patience)

    def _ready(self, server: Server, work: Work, weights: Weights) -> bool:
        """Wait until a server is there and has the weights; False when it is not needed any more, or away for too long."""
        until, said, last = time.monotonic() + self.limits.patience, False, ""
        while not work.over() and time.monotonic() < until:
            try:
                server.ask("GET", "/health", timeout=10.0)
                if not holds(server, weights):
                    if self.transfer.together and work.others_serve(server):
                        raise ServerLost(f"{server.address} gets its weights with the others, which are busy")
                    self._give(server, weights)
                    LOG.warning("%s is there and was given the weights", server.address)
                elif said:
                    LOG.warning("%s is there again", server.address)
                return True
            except ServerLost as error:
                if not said:
                    LOG.warning("%s is not there; waiting up to %.0f s (%s)", server.address, self.limits.patience, error)
                said, last = True, str(error)
                work.wait(PAUSE)
        if not work.over():
            LOG.error("%s did not come back within %.0f s: %s", server.address, self.limits.patience, last)
        return False

    def _give(self, server: Server, weights: Weights) -> None:
        with self._giving:
            self.transfer.give(server, weights)
            self.pushes += 1

    def _say_lost(self, server: Server, error: ServerLost) -> None:
        self.lost += 1
        LOG.warning("lost %s: %s; its prompts are asked again", server.address, error)


class Work:
    """Numbered questions that several servers answer together; each is answered once, however often it is asked."""

    def __init__(self, count: int, ask: Callable[[Server, int], list[Rollout]], stopping: threading.Event) -> None:
        """Questions 0 to count - 1, none asked yet."""
        self.count, self.ask, self.stopping = count, ask, stopping
        self.waiting = deque(range(count))
        self.found: dict[int, list[Rollout]] = {}
        self.error: Exception | None = None
        self.tenders: set[str] = set()
        self.busy: set[str] = set()
        self.changed = threading.Condition()

    def over(self) -> bool:
        """Whether nothing is left to do, or nothing can be done."""
        return len(self.found) == self.count or self.error is not None or self.stopping.is_set()

    def through(self, server: Server, lost: list[ServerLost]) -> None:
        """Ask a server one question after the other, until all are answered or it is lost; then its questions go back."""
        while not lost:
            with self.changed:
                while not self.waiting and not self.over() and not lost:
                    # Another server may yet give a question back.
                    self.changed.wait(0.2)
                if self.over() or lost:
                    return
                i = self.waiting.popleft()
            try:
                answer = self.ask(server, i)
            except ServerLost as error:
                with self.changed:
                    self.waiting.appendleft(i)
                    lost.append(error)
                    self.changed.notify_all()
            except Exception as error:  # noqa: BLE001 - as in `Servers._tend`
                self.fail(error)
            else:
                with self.changed:
                    self.found[i] = answer
                    self.changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait for a change, at most so long."""
        with self.changed:
            if not self.over():
                self.changed.wait(seconds)

    def fail(self, error: Exception) -> None:
        """Nothing more is asked; `results` raises this."""
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()

    def serving(self, server: Server, *, now: bool = True) -> None:
        """A server is being asked, or no longer."""
        with self.changed:
            (self.busy.add if now else self.busy.discard)(server.address)

    def others_serve(self, server: Server) -> bool:
        """Whether any other server is being asked."""
        with self.changed:
            return bool(self.busy - {server.address})

    def left(self, server: Server, patience: float) -> None:
        """A server takes part no more; without any the work has failed."""
        with self.changed:
            self.tenders.discard(server.address)
            self.busy.discard(server.address)
            if not self.tenders and not self.over():
                self.error = ServerLost(
                    f"no rollout server came back in {patience:.0f} s (rollout.servers.patience); start one with `visurf serve`, "
                    "and the same command goes on where the run stood"
                )
            self.changed.notify_all()

    def results(self) -> list[list[Rollout]]:
        """All answers, in order; raises what went wrong."""
        if self.error is not None:
            raise self.error
        if len(self.found) < self.count:
            raise ServerLost("drawing was ended")
        return [self.found[i] for i in range(self.count)]
