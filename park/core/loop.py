"""The broker's loop: poll, decode, handle, send and hand in; when it is on disk publish and acknowledge."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from msgspec.structs import replace

from park.core.manager import JobManager
from park.core.outcome import Account, Event, Flow, Ref, Send, Tick
from park.errors import ProtocolError, StoreError
from park.model import Delta
from park.util.outbox import Outbox, Patience
from park.util.outlet import record, tell
from park.wire import codec, messages

#: Messages of one side that are taken in one turn.
BATCH = 256
#: Bytes of messages after which no more are taken in one turn.
BATCH_BYTES = 16 << 20
#: Bytes that wait for a client from which on its sessions are not dealt.
SLOW = 4 << 20
#: Seconds between two tries to send what waits.
RETRY = 0.02
#: Seconds between two heads of the table.
HEAD = 1.0
_HELLOS = (messages.Hello, messages.KernelHello)


class Door(Protocol):
    """Where many peers come in: a junction of lanes or a ROUTER."""

    def account(self, name: bytes) -> Account | None:
        """Whose key the peer showed; None: it is the broker's own Unix user."""

    def send(
        self,
        name: bytes,
        message: list[Any] | Callable[..., list[Any]],
        said: messages.Message | None = None,
    ) -> bool:
        """Whether something waits now until the peer takes it. *said*: the same, from which it is told what it may pass."""

    def flush(self) -> None:
        """Send what waits."""

    def behind(self) -> dict[bytes, Outbox]:
        """The messages that wait, by peer."""

    def lively(self) -> set[bytes]:
        """Peers of whose messages pieces have come since this was asked last."""

    def cut(self, name: bytes) -> None:
        """What waits for this peer is dropped."""

    def waiting(self) -> bool: ...

    def receive(self) -> tuple[bytes, list[Any]] | None: ...

    def close(self) -> None: ...


class Board(Protocol):
    """Where the table is published."""

    def publish(self, frames: list[Any]) -> None: ...

    def close(self) -> None: ...


class BrokerLoop:
    """One broker's part in a reactor: doors for clients and for kernels, and a board for mirrors.

    *keyed*: three more, for those who come with a key. The peers of a door bear its letter. *wake*: what any thread
    may call when the loop has to look; it does so once it has begun.
    """

    def __init__(
        self,
        manager: JobManager,
        clients: Door,
        kernels: Door,
        board: Board,
        wake: Callable[[], None],
        keyed: tuple[Door, Door, Board] | None = None,
    ) -> None:
        self.manager = manager
        self._doors = {b"c": clients, b"k": kernels}
        self._boards = [board]
        if keyed is not None:
            self._doors |= {b"C": keyed[0], b"K": keyed[1]}
            self._boards.append(keyed[2])
        self._head_at = 0.0
        #: what was said last about a full disk
        self._full = ""
        self._tick_at = 0.0
        #: peers for which much waits, and when it is tried again to send it
        self._slow: set[bytes] = set()
        self._flush_at = float("inf")
        self._patience = Patience()
        #: messages seen, by the letter of their door, ">" or "<", and class
        self._seen: Counter[tuple[bytes, str, type]] = Counter()
        #: frames that were no messages
        self.malformed = 0
        now = time.monotonic()
        manager.restore(now, time.time())
        manager.write_behind(wake)
        self._do([Tick(time.time())], now)

    def __repr__(self) -> str:
        return f"<BrokerLoop {self.manager!r}>"

    @property
    def counts(self) -> Counter[str]:
        """Messages seen, by the letter of their door, direction and name, as "c > Submit"."""
        counts: Counter[str] = Counter()
        for (side, way, kind), count in self._seen.items():
            counts[f"{side.decode().lower()} {way} {kind.__name__}"] += count
        return counts

    def waiting(self) -> bool:
        manager = self.manager
        if manager.has_laid:
            return True
        if manager.handed:
            if manager.has_completed:
                return True
            if manager.behind:
                return False
        for door in self._doors.values():
            if door.waiting():
                return True
        return False

    def turn(self, now: float) -> None:
        try:
            if self.manager.handed:
                self._complete()
            if self.manager.has_laid:
                self._do(self.manager.laid(), now)
            if now >= self._flush_at:
                self._flush(now)
            # while the disk is behind nobody is heard, and time stands still, so that nobody's silence counts
            if not (self.manager.handed and self.manager.behind):
                self._hear(now)
            if now >= self._head_at:
                self._head_at = now + HEAD
                self._publish(codec.encode(replace(self.manager.public.head, wall=time.time())))
        except StoreError as error:
            raise self.manager.cause(error) from None

    def _flush(self, now: float) -> None:
        """Send what waits; tell the dispatcher who is slow, and cut off those who take nothing of much that waits."""
        events: list[Event | Tick | Flow] = []
        behind: dict[bytes, Outbox] = {}
        for side, door in self._doors.items():
            door.flush()
            behind |= {side + name: outbox for name, outbox in door.behind().items()}
        for peer in self._patience.over(behind, now):
            del behind[peer]
            self._doors[peer[:1]].cut(peer[1:])
            self._slow.discard(peer)
            events.append(Flow(peer, "cut"))
        waits = {peer: outbox.size for peer, outbox in behind.items()}
        for peer, size in waits.items():
            if size > SLOW and peer not in self._slow:
                self._slow.add(peer)
                events.append(Flow(peer, "slow"))
        for peer in [p for p in self._slow if waits.get(p, 0) <= SLOW / 2]:
            self._slow.discard(peer)
            events.append(Flow(peer, "clear"))
        self._flush_at = now + RETRY if behind else float("inf")
        if events:
            self._do(events, now)

    def _hear(self, now: float) -> None:
        events: list[Event | Tick | Flow] = []
        for side, door in self._doors.items():
            size = 0
            for _ in range(BATCH):
                got = door.receive() if size < BATCH_BYTES else None
                if got is None:
                    break
                size += sum(map(len, got[1]))
                self._decode(side, door, *got, events)
            events += [Flow(side + name, "alive") for name in door.lively()]
        if now >= self._tick_at:
            self._tick_at = float("inf")  # `deadline` says when the next one is
            events.append(Tick(time.time()))
        if events:
            self._do(self.manager.sift(events), now)

    def deadline(self) -> float | None:
        others = min(self._head_at, self._flush_at)
        if self.manager.handed and self.manager.behind:
            return others
        self._tick_at = self.manager.next_deadline(time.monotonic())
        return min(self._tick_at, others)

    def close(self) -> None:
        for door in self._doors.values():
            door.close()
        for board in self._boards:
            board.close()
        self.manager.close()

    def _decode(
        self, side: bytes, door: Door, name: bytes, frames: list[Any], events: list[Event | Tick | Flow]
    ) -> None:
        account: Account | None = None
        try:
            message, payload = codec.decode(frames)
            if isinstance(message, _HELLOS):
                if isinstance(message, messages.Hello) != (side in b"cC"):
                    raise ProtocolError("clients come in at one door, kernels at another")
                account = door.account(name)
        except ProtocolError as error:
            self.malformed += 1
            if asked := codec.id_of(frames):
                self._note(
                    door.send(name, codec.encode(messages.Failure(asked, "ProtocolError", str(error))))
                )
            return
        self._seen[side, ">", type(message)] += 1
        events.append(Event(side + name, message, payload, account))

    def _publish(self, frames: list[Any]) -> None:
        for board in self._boards:
            board.publish(frames)

    def _do(self, events: Sequence[Event | Tick | Flow], now: float) -> None:
        turn = self.manager.decide(events, now)
        self._send(turn.sends)
        self.manager.hand_in(turn)
        if self.manager.handed:
            self._complete()
        if self.manager.full != self._full:
            self._say(self.manager.full)

    def _say(self, full: str) -> None:
        text = (
            f"{full}: what is new is refused, and results wait on kernels" if full else "there is room again"
        )
        tell(f"park: {text}", "warning")
        self._full = full

    def _complete(self) -> None:
        for turn in self.manager.completed():
            if turn.publish is not None:
                self._seen[b"t", "<", messages.Deltas] += 1
                self._publish(codec.encode(*turn.publish))
                for delta in turn.deltas:
                    if delta.table == "kernel":
                        self._log_kernel(delta)
            self._send(turn.sends_after_commit)

    def _log_kernel(self, delta: Delta) -> None:
        """Write down that a kernel has come or gone."""
        change = delta.change
        if change is None:
            record(f"park-broker: kernel {delta.key} has left, or was lost")
        elif "host" in change:
            slots = change["slots"]
            record(
                f"park-broker: kernel {delta.key} has come: {slots} slot{'s'[: slots != 1]} on {change['host']}, "
                f"process {change['pid']}"
            )

    def _send(self, sends: list[Send]) -> None:
        for send in sends:
            side = send.peer[:1]
            door = self._doors.get(side)
            if door is None:  # it was cut off
                continue
            self._seen[side, "<", type(send.message)] += 1
            if isinstance(send.payload, Ref):
                late = partial(self.manager.frames, send)
                self._note(door.send(send.peer[1:], late, send.message))
            else:
                self._note(door.send(send.peer[1:], self.manager.frames(send), send.message))

    def _note(self, waits: bool) -> None:
        """Something *waits* until a peer takes it: it is tried again, and it is seen how much that is."""
        if waits and self._flush_at == float("inf"):
            self._flush_at = 0.0
