"""The broker's loop. A turn polls, decodes, handles, sends, and hands its writes in; when they are on disk it publishes
and acknowledges.
"""

from __future__ import annotations

import base64
import time
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from msgspec.structs import replace

from park.broker.accounts import budgets
from park.broker.effects import Event, Flow, Ref, Send, Tick
from park.broker.faults import Faults
from park.broker.manager import LONG_PAYLOAD_BYTES, JobManager
from park.broker.storage.pieces import LongValue
from park.broker.turns import Turn
from park.errors import ProtocolError, StoreError, in_words
from park.model import Account, Delta
from park.net.intake import ReceiveBudgets
from park.net.outbox import Outbox, StalledPeers
from park.util.stdio import record, tell
from park.wire import codec, messages

#: Budgets of the long messages that come.
LONG_MESSAGES = ReceiveBudgets(
    budgets.MAX_ALL_LONG_BYTES, budgets.MAX_OWNER_LONG_BYTES, budgets.MAX_PEER_LONG_BYTES
)
#: Messages of one socket that are taken in one turn.
MAX_TURN_MESSAGES = 256
#: Bytes of messages after which no more are taken in one turn.
MAX_TURN_BYTES = 16 << 20
#: Bytes that may wait for a client before its sessions get no more units dealt.
SLOW_PEER_BYTES = 4 << 20
#: Seconds between two tries to send the messages that wait.
SEND_RETRY_SECONDS = 0.02
#: Seconds between two heads of the table.
HEAD_SECONDS = 1.0
#: Bytes of a message that are written to the log when the broker fails at it.
MAX_LOGGED_BYTES = 16 << 10
_HELLOS = (messages.Hello, messages.KernelHello)


class PeerSocket(Protocol):
    """A socket with many peers: a junction of lanes or a ROUTER."""

    def account(self, name: bytes) -> Account | None:
        """The account of the key that the peer showed; None: the peer is the broker's own Unix user."""

    def send(
        self,
        name: bytes,
        message: list[Any] | Callable[..., list[Any]],
        said: messages.Message | None = None,
    ) -> bool:
        """Send the frames. True: some wait until the peer takes them. *said*: the message, for the order of sending."""

    def flush(self) -> None:
        """Send the messages that wait."""

    def behind(self) -> dict[bytes, Outbox]:
        """The messages that wait, by peer."""

    def lively(self) -> set[bytes]:
        """The peers that have sent a piece of a message since the last call."""

    def without_room(self) -> list[bytes]:
        """The peers whose long messages wait for room."""

    def cut(self, name: bytes) -> None:
        """Drop the messages that wait for this peer."""

    def release(self, name: bytes, size: int) -> None:
        """Note that a long message of this peer, with a payload of *size* bytes, was decided or dropped."""

    def release_all(self) -> None:
        """No long message that has come whole is kept any longer."""

    def waiting(self) -> bool: ...

    def receive(self) -> tuple[bytes, list[Any]] | None: ...

    def close(self) -> None: ...


class TablePublisher(Protocol):
    """A socket that publishes the table to mirrors."""

    def publish(self, frames: list[Any]) -> None: ...

    def close(self) -> None: ...


class BrokerLoop:
    """The broker's part of a reactor: a socket for clients, one for kernels, and a publisher for mirrors.

    *keyed*: three more sockets, for peers with a key. The names of a socket's peers begin with its letter. *wake*: any
    thread may call it to make the loop look for work.
    """

    def __init__(
        self,
        manager: JobManager,
        clients: PeerSocket,
        kernels: PeerSocket,
        publisher: TablePublisher,
        wake: Callable[[], None],
        keyed: tuple[PeerSocket, PeerSocket, TablePublisher] | None = None,
    ) -> None:
        self.manager = manager
        self._routers = {b"c": clients, b"k": kernels}
        self._publishers = [publisher]
        if keyed is not None:
            self._routers |= {b"C": keyed[0], b"K": keyed[1]}
            self._publishers.append(keyed[2])
        self._head_at = 0.0
        #: the last warning of a full disk; "": the disk has room
        self._full = ""
        self._tick_at = 0.0
        #: peers with many waiting bytes, and when to try again to send them
        self._slow: set[bytes] = set()
        self._flush_at = float("inf")
        self._patience = StalledPeers()
        #: messages seen, by the letter of their socket, ">" or "<", and class
        self._seen: Counter[tuple[bytes, str, type]] = Counter()
        #: frames that were no messages
        self.malformed = 0
        #: messages at which the broker itself has failed
        self.faults = Faults()
        self._wake = wake
        now = time.monotonic()
        manager.restore(now, time.time())
        manager.write_behind(wake)
        self._do([Tick(time.time())], now)

    def __repr__(self) -> str:
        return f"<BrokerLoop {self.manager!r}>"

    @property
    def counts(self) -> Counter[str]:
        """The number of messages by the letter of their socket, direction and name, as "c > Submit"."""
        counts: Counter[str] = Counter()
        for (side, way, kind), count in self._seen.items():
            counts[f"{side.decode().lower()} {way} {kind.__name__}"] += count
        return counts

    def waiting(self) -> bool:
        manager = self.manager
        if manager.has_laid or manager.has_posted:
            return True
        if manager.handed:
            if manager.has_completed:
                return True
            if manager.behind:
                return False
        for router in self._routers.values():
            if router.waiting():
                return True
        return False

    def turn(self, now: float) -> None:
        try:
            if self.manager.handed:
                self._complete()
                self._send(self.manager.late_answers())
            if self.manager.has_laid:
                self._do(self.manager.laid(), now)
            if now >= self._flush_at:
                self._flush(now)
            if self.manager.has_posted:
                self._do([], now)
            # while the disk is behind, no message is read, and the time does not advance, so that no peer seems silent
            if not (self.manager.handed and self.manager.behind):
                self._hear(now)
            if now >= self._head_at:
                self._head_at = now + HEAD_SECONDS
                self._publish_head()
                self._show_progress()
                self.manager.forget_recent(now)
        except StoreError as error:
            raise self.manager.cause(error) from None

    def _publish_head(self) -> None:
        manager = self.manager
        head = replace(
            manager.public.head,
            wall=time.time(),
            faults=self.faults.count,
            commit=manager.commit_seconds,
            clients=len(manager.dispatcher.state.roster.clients),
            unused=manager.store.unused_bytes(),
            full=manager.full,
        )
        self._publish(codec.encode(head))

    def _show_progress(self) -> None:
        """Tell the senders of long messages that are stored, or wait for room meanwhile, that the disk moves."""
        if (held := self.manager.held_while_moving()) is not None:
            waiting = [
                side + name for side, router in self._routers.items() for name in router.without_room()
            ]
            self._send([Send(peer, messages.Proceed(0)) for peer in {*held, *waiting}])

    def _flush(self, now: float) -> None:
        """Send waiting messages, report slow peers to the dispatcher, and cut off peers that read nothing although much
        waits.
        """
        events: list[Event | Tick | Flow] = []
        behind: dict[bytes, Outbox] = {}
        for side, router in self._routers.items():
            router.flush()
            behind |= {side + name: outbox for name, outbox in router.behind().items()}
        for peer in self._patience.over(behind, now):
            del behind[peer]
            self._routers[peer[:1]].cut(peer[1:])
            self._slow.discard(peer)
            events.append(Flow(peer, "cut"))
        waits = {peer: outbox.size for peer, outbox in behind.items()}
        for peer, size in waits.items():
            if size > SLOW_PEER_BYTES and peer not in self._slow:
                self._slow.add(peer)
                events.append(Flow(peer, "slow"))
        for peer in [p for p in self._slow if waits.get(p, 0) <= SLOW_PEER_BYTES / 2]:
            self._slow.discard(peer)
            events.append(Flow(peer, "clear"))
        self._flush_at = now + SEND_RETRY_SECONDS if behind else float("inf")
        if events:
            self._do(events, now)

    def _hear(self, now: float) -> None:
        events: list[Event | Tick | Flow] = []
        for side, router in self._routers.items():
            size = 0
            for _ in range(MAX_TURN_MESSAGES):
                got = router.receive() if size < MAX_TURN_BYTES else None
                if got is None:
                    break
                size += sum(map(len, got[1]))
                self._decode(side, router, *got, events)
            events += [Flow(side + name, "alive") for name in router.lively()]
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
        for router in self._routers.values():
            router.close()
        for publisher in self._publishers:
            publisher.close()
        self.manager.close()

    def _decode(
        self,
        side: bytes,
        router: PeerSocket,
        name: bytes,
        frames: list[Any],
        events: list[Event | Tick | Flow],
    ) -> None:
        account: Account | None = None
        if self.faults.any and (
            left := self.faults.shut_out_for(self._sender(side + name), time.monotonic())
        ):
            self._refuse(router, name, frames, left)
            self._drop(router, name, frames)
            return
        try:
            message, payload = codec.decode(frames)
            if isinstance(message, _HELLOS):
                if isinstance(message, messages.Hello) != (side in b"cC"):
                    raise ProtocolError("clients and kernels connect to different sockets")
                account = router.account(name)
        except Exception as error:
            self.malformed += 1
            self._drop(router, name, frames)
            if not isinstance(error, ProtocolError):  # no frame should lead there
                self.faults.blame(self._sender(side + name), time.monotonic())
                tell(f"park-broker: a message could not be decoded: {in_words(error)}", "error")
            if asked := codec.id_of(frames):
                self._note(
                    router.send(name, codec.encode(messages.Failure(asked, "ProtocolError", str(error))))
                )
            return
        self._seen[side, ">", type(message)] += 1
        events.append(Event(side + name, message, payload, account))

    @staticmethod
    def _drop(router: PeerSocket, name: bytes, frames: list[Any]) -> None:
        """Keep these frames, which will not be decided, no longer."""
        if len(frames) > 1 and (size := len(frames[-1])) > LONG_PAYLOAD_BYTES:
            router.release(name, size)

    def _refuse(self, router: PeerSocket, name: bytes, frames: list[Any], left: float) -> None:
        """Tell a peer why it is shut out, if it waits for an answer."""
        if asked := codec.id_of(frames):
            words = f"the broker failed at a message of yours, and takes no more of them for {left:.0f} s"
            self._note(router.send(name, codec.encode(messages.Failure(asked, "Refused", words))))

    def _publish(self, frames: list[Any]) -> None:
        for publisher in self._publishers:
            publisher.publish(frames)

    def _do(self, events: Sequence[Event | Tick | Flow], now: float) -> None:
        turn = self._decide(events, now)
        for peer, size in turn.taken:
            if (router := self._routers.get(peer[:1])) is not None:
                router.release(peer[1:], size)
        self._send(turn.sends)
        self.manager.hand_in(turn)
        if self.manager.handed:
            self._complete()
        if self.manager.full != self._full:
            self._say(self.manager.full)

    def _decide(self, events: Sequence[Event | Tick | Flow], now: float) -> Turn:
        """The turn of these events. A failure that no handler foresees undoes it, and a new life begins."""
        try:
            return self.manager.decide(events, now)
        except StoreError:
            raise
        except Exception as error:
            if self.manager.checked:  # a test looks at it
                raise
            return self._begin_anew(error, now)

    def _begin_anew(self, error: Exception, now: float) -> Turn:
        """Begin a new life from the store, without the message that has failed: the first turn of it."""
        event = self.manager.deciding
        peer = event.peer if isinstance(event, Event | Flow) else None
        seconds = self.faults.blame(self._sender(peer), now) if peer is not None else 0.0
        stop = peer is None and self.faults.at_tick(now)
        self._report(event, error, seconds)
        self.manager.finish()
        with suppress(Exception):  # a peer that gets no acknowledgement asks again
            self._complete()
        if stop:
            raise StoreError(
                f"the broker fails again and again while it looks at its jobs ({in_words(error)}): nothing that was "
                "acknowledged is lost; report the lines above, and start it again with an earlier or a later release"
            ) from error
        successor = self.manager.successor()
        try:
            successor.restore(now, time.time())
        except StoreError:
            raise
        except Exception as second:
            raise StoreError(
                f"the stored jobs cannot be taken up again ({in_words(second)}): go on with a copy from `park backup` "
                "(park-broker --restore), or in another home"
            ) from second
        successor.write_behind(self._wake)
        self.manager = successor
        for router in self._routers.values():
            router.release_all()
        self._slow.clear()
        turn = successor.decide([Tick(time.time())], now)
        if isinstance(event, Event) and (reply := getattr(event.message, "id", 0)):
            kind = type(event.message).__name__
            words = f"the broker failed at this {kind} ({in_words(error)}) and has gone on without it"
            turn.sends.append(Send(event.peer, messages.Failure(reply, "ProtocolError", words)))
        return turn

    def _sender(self, peer: bytes) -> Hashable:
        """The account of a peer with a key, or the connection of a peer without one."""
        router = self._routers.get(peer[:1])
        account = router.account(peer[1:]) if router is not None else None
        return peer if account is None else (peer[:1], account)

    def _report(self, event: Event | Tick | Flow | None, error: Exception, seconds: float) -> None:
        """Report that the broker has failed, and log how to repeat the failure."""
        if isinstance(event, Event):
            kind = type(event.message).__name__
            frames = codec.encode(event.message, bytes(event.payload[:MAX_LOGGED_BYTES]))
            data = b"".join(bytes(f) for f in frames)[: 2 * MAX_LOGGED_BYTES]
            told = f"a {kind} of {self._sender(event.peer)!r:.200} failed"
            if seconds:
                told += f", and its sender is shut out for {seconds:.0f} s"
            repeat = f"; the message, in base64: {base64.b64encode(data).decode()}"
        else:
            told, repeat = f"{type(event).__name__.lower()} failed", ""
        trace = "".join(traceback.format_exception(error))
        tell(
            f"park-broker: {told}; a new life begins from the store; nothing acknowledged is lost\n{trace}",
            "error",
        )
        if repeat:
            record(f"park-broker: {told}{repeat}", "error")

    def _say(self, full: str) -> None:
        refused = "new jobs are refused and kernels keep their results until there is room"
        text = f"{full}: {refused}" if full else "there is room again"
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
            router = self._routers.get(side)
            if router is None:  # it was cut off
                continue
            self._seen[side, "<", type(send.message)] += 1
            if isinstance(send.payload, Ref | LongValue):
                late = partial(self.manager.payloads.frames, send)
                self._note(router.send(send.peer[1:], late, send.message))
            else:
                self._note(router.send(send.peer[1:], self.manager.payloads.frames(send), send.message))

    def _note(self, waits: bool) -> None:
        """Note that a message *waits* for its peer: the loop tries it again later, and looks how many bytes wait."""
        if waits and self._flush_at == float("inf"):
            self._flush_at = 0.0
