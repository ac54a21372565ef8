"""The hub of jobs' messages: the watchers of each job, and the messages that a late watcher gets first.

A job's stream is the messages that its body publishes: progress, improvements, log lines, messages of its own kinds.
The hub passes them on and forgets them. But some, such as progress, stay true until the next one of their kind comes.
The hub keeps the latest one of each such kind as the stream's header. (The disk has the header, and the last lines of
the log: `park.broker.storage.latest`, `park.broker.storage.job_messages`.) A watcher that joins gets the header first
and then every later message in order, with nothing lost or doubled between, because `subscribe` does both at once.

The hub is pure: it returns the messages with their peers, and the caller sends them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from park.wire.codec import Buffer
from park.wire.messages import Stream

#: Kinds that are always part of the header.
LATEST_KINDS = frozenset({"progress", "improvement"})
#: Kinds in one header; with more, the one that was published longest ago goes.
MAX_HEADER_MESSAGES = 64


class message_stream:
    """Streams of messages by job number. A peer is any hashable name that the caller chooses."""

    def __init__(self) -> None:
        #: job -> kind -> its latest message, in the order in which they were published
        self._headers: dict[int, dict[str, bytes]] = {}
        #: job -> its watchers, in the order in which they came; never empty
        self._watchers: dict[int, dict[Hashable, None]] = {}

    def __repr__(self) -> str:
        watchers = sum(map(len, self._watchers.values()))
        return f"<message_stream {len(self._headers)} headers, {watchers} watchers>"

    def publish(
        self, job: int, kind: str, payload: Buffer, header: bool = False, at: int = 0
    ) -> list[tuple[Any, Stream, Buffer]]:
        """The sends (peer, message, payload) of a message that *job* has published, *at* this place.

        With *header*, or for a kind of `LATEST_KINDS`, later watchers get it first.
        """
        if header or kind in LATEST_KINDS:
            self.set_header(job, kind, payload)
        message = Stream(job=job, kind=kind, at=at)
        return [(peer, message, payload) for peer in self._watchers.get(job, ())]

    def watched(self, job: int) -> bool:
        """Whether *job* has a watcher."""
        return job in self._watchers

    def set_header(self, job: int, kind: str, payload: Buffer) -> None:
        """Set the message of *kind* that later watchers of *job* get first; present watchers get nothing."""
        kinds = self._headers.setdefault(job, {})
        kinds.pop(kind, None)
        kinds[kind] = bytes(payload)
        if len(kinds) > MAX_HEADER_MESSAGES:
            del kinds[next(iter(kinds))]

    def subscribe(self, job: int, peer: Hashable) -> list[tuple[Stream, bytes]]:
        """Let *peer* watch *job* from now on. Returns the header, to send to the peer before all else."""
        self._watchers.setdefault(job, {})[peer] = None
        kinds = self._headers.get(job, {})
        return [(Stream(job=job, kind=kind, header=True), payload) for kind, payload in kinds.items()]

    def unsubscribe(self, job: int, peer: Hashable) -> None:
        """*peer* does not watch *job* any more, if it did."""
        watchers = self._watchers.get(job, {})
        watchers.pop(peer, None)
        if not watchers:
            self._watchers.pop(job, None)

    def drop_peer(self, peer: Hashable) -> None:
        """*peer* is gone and watches nothing."""
        for job in [job for job, watchers in self._watchers.items() if peer in watchers]:
            self.unsubscribe(job, peer)

    def close(self, job: int) -> None:
        """*job* has ended: its header and watchers are forgotten."""
        self._headers.pop(job, None)
        self._watchers.pop(job, None)
