"""The cost of a decision: a slot has become free, and the broker picks the next chunk for it and deals it.

A dispatcher gets the answers of made-up kernels, one by one. *turn* is all that the broker's loop does for one answer
but the sockets: decode it, decide, commit to a store in memory, encode what follows. *handle* is the dispatcher's part.
*decision* is how much longer that takes than where nothing is left to deal, with as many jobs, owners and kernels.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from benchmarks.scale import Mark, Rows, Scale
from park.broker.effects import Event, Tick
from park.broker.manager import JobManager
from park.wire import codec, messages, pack

UNITS = {"decision": "us", "handle": "us", "turn": "us"}
#: Slots whose answers are measured; as many chunks are under way.
FLIGHT = 1000
CODE = b"code"
#: Its hash.
HASH = hashlib.blake2b(CODE, digest_size=16).digest()
#: A unit takes long, so that a chunk is one unit.
SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """The sizes of what is measured."""

    jobs: int
    owners: int
    kernels: int


CROWDS = {
    "10 jobs of 2 owners": Crowd(10, 2, 10),
    "10,000 jobs of 1,000 owners": Crowd(10_000, 1_000, 10),
    "the same, 10,000 kernels": Crowd(10_000, 1_000, 10_000),
}
SYSTEMS = tuple(CROWDS)


def measure(system: str, scale: Scale) -> Rows:
    crowd = CROWDS[system]
    if scale.decisions < FLIGHT:  # a quick look
        crowd = Crowd(min(crowd.jobs, 100), min(crowd.owners, 10), min(crowd.kernels, 100))
    handle = Bench(crowd, scale.decisions, busy=True).handle(scale.decisions)
    idle = Bench(crowd, scale.decisions, busy=False).handle(scale.decisions)
    turn = Bench(crowd, scale.decisions, busy=True).turns(scale.decisions)
    return {system: {"decision": handle - idle, "handle": handle, "turn": turn}}


def derive(rows: Rows) -> None:
    """There is nothing to compare: the marks are times."""


def marks() -> list[Mark]:
    few, many, kernels = SYSTEMS
    return [Mark(few, "decision", 50), Mark(many, "decision", 100), Mark(kernels, "decision", 100)]


class Bench:
    """A broker's core with jobs and kernels, of which some chunks run. Not *busy*: no unit waits beside them."""

    def __init__(self, crowd: Crowd, answers: int, busy: bool) -> None:
        self.now = 100.0
        self.manager = JobManager()
        self.manager.restore(self.now, self.now)
        #: chunks that kernels have, whose, and since when
        self.runs: deque[tuple[bytes, messages.Run, float]] = deque()
        self._do([Tick(self.now)])
        # at least as many slots as answers: where no unit waits beside those that run, none is dealt meanwhile
        slots = -(-max(FLIGHT, answers) // crowd.kernels)
        self._slots = slots * crowd.kernels
        for number in range(crowd.owners):
            hello = messages.Hello(number.to_bytes(16, "big"), f"owner {number}", "3.11")
            self._do([Event(b"c%d" % number, hello)])
        self._do([Event(b"c0", messages.Blob(HASH), CODE)])
        for number in range(crowd.jobs):
            share = self._slots // crowd.jobs + (number < self._slots % crowd.jobs)
            self._submit(number, b"c%d" % (number % crowd.owners), answers if busy else share)
        for number in range(crowd.kernels):
            incarnation = (1 << 40 | number).to_bytes(16, "big")
            kernel = messages.KernelHello(incarnation, "kay", "node", 1, slots, "3.11")
            self._do([Event(b"k%d" % number, kernel)])
        self.now += SECONDS

    def _submit(self, number: int, peer: bytes, count: int) -> None:
        submit = messages.Submit(
            id=1,
            key=number.to_bytes(16, "big"),
            body=HASH,
            python="3.11",
            count=count,
            closed=False,  # so that it does not end here
            idempotent=False,  # so that nothing is issued a second time where slots are free
            priority=number % 7,
        )
        self._do([Event(peer, submit, pack.pack_entries([b"x"] * count))])

    def _do(self, events: list[Any]) -> None:
        turn = self.manager.decide(events, self.now)
        self._commit(turn)
        self._take(turn)

    def _commit(self, turn: Any) -> None:
        self.manager.hand_in(turn)
        for _ in self.manager.completed():
            pass

    def _take(self, turn: Any) -> None:
        for send in (*turn.sends, *turn.sends_after_commit):
            if isinstance(send.message, messages.Run):
                self.runs.append((send.peer, send.message, self.now))

    def _answer(self) -> Event:
        """The oldest chunk is done."""
        peer, run, since = self.runs.popleft()
        self.now += SECONDS / self._slots
        finished = messages.Finished(run.attempt, run.map, run.start, run.count, self.now - since)
        return Event(peer, finished, pack.pack_entries([b"v"] * run.count))

    def handle(self, count: int) -> float:
        """Microseconds of CPU that the dispatcher takes for an answer."""
        took = 0
        gc.collect()
        gc.disable()
        try:
            for _ in range(count):
                event = self._answer()
                began = time.thread_time_ns()
                turn = self.manager.decide([event], self.now)
                took += time.thread_time_ns() - began
                self._commit(turn)
                self._take(turn)
        finally:
            gc.enable()
        return took / count / 1e3

    def turns(self, count: int) -> float:
        """Microseconds of CPU that the loop takes for an answer, but for its sockets."""
        took = 0
        gc.collect()
        for _ in range(count):
            event = self._answer()
            frames = codec.encode(event.message, event.payload)
            began = time.thread_time_ns()
            turn = self.manager.decide([Event(event.peer, *codec.decode(frames))], self.now)
            self._commit(turn)
            for send in (*turn.sends, *turn.sends_after_commit):
                codec.encode(send.message, send.payload)  # type: ignore[arg-type]
            took += time.thread_time_ns() - began
            self._take(turn)
        return took / count / 1e3
