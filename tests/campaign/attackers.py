"""Peers that attack a live broker, each with the rights of one role (``python -m tests.campaign.attackers ROLE ...``).

Each sends as fast as the broker takes it, and prints at its end what it was answered: a JSON object with the messages
that it sent, its refusals by error, and its *breaches*, which are answers that it must never get.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import zmq

from park.broker import dispatcher
from park.errors import ParkError
from park.model import PYTHON
from park.net.keys import read_key
from park.wire import codec, messages, pack
from park.wire.pack import code_hash
from tests.sim.functions import entry
from tests.support.any_value import any_of

KINDS = sorted(dispatcher.HANDLERS, key=lambda kind: kind.__name__)
#: Messages of an attack between two looks at the answers.
BURST = 50
#: Messages on a connection that is then reset.
RESET_MESSAGES = 5000
#: How often an attacker comes anew instead.
AGAIN = 0.05
#: Fetches that the hoarder leaves open, more than a connection may have.
HOARD = 55_000
#: Seconds after the attack in which each attacker is refused once more at the latest, also on a busy machine.
LAST_SECONDS = 150.0


class Attacker:
    """One role's peer. *endpoints*: of the broker, by port. *key*: a file; None for the stranger."""

    port = "clients"

    def __init__(self, endpoints: dict[str, str], key: Path | None, seed: int) -> None:
        self.endpoints, self.key = endpoints, key
        self.chance = random.Random(seed)
        self.sent, self.numbers = 0, 0
        self.refused: Counter[str] = Counter()
        self.breaches: Counter[str] = Counter()
        self.epoch = 1
        #: when the attack ends
        self.until = float("inf")
        self.socket: Any = None

    # -- the wire ------------------------------------------------------------------------------

    def connect(self, port: str, key: Path | None = None, kind: int = zmq.DEALER, heartbeat: int = 0) -> None:
        """A new connection, with a key that the broker knows, or with an unknown one."""
        if self.socket is not None:
            self.socket.close(0)
        self.socket = zmq.Context.instance().socket(kind)
        self.socket.linger, self.socket.sndhwm = 0, 1000
        self.socket.heartbeat_ivl, self.socket.heartbeat_timeout = heartbeat, 60_000
        key = key or self.key
        assert key is not None
        known = read_key(key)
        pair = (known.public.encode(), known.secret.encode()) if self.key is not None else zmq.curve_keypair()
        self.socket.curve_publickey, self.socket.curve_secretkey = pair
        self.socket.curve_serverkey = known.broker.encode()
        self.socket.connect(self.endpoints[port])

    def send(self, message: messages.Message, payload: bytes = b"") -> None:
        self.raw(codec.encode(message, payload))

    def raw(self, frames: Any) -> None:
        """Send frames, unless the broker takes none for a while."""
        if time.monotonic() < self.until and self.socket.poll(1000, zmq.POLLOUT):
            with suppress(zmq.Again):
                self.socket.send_multipart(frames, zmq.DONTWAIT)
                self.sent += 1

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def answers(self, wait: int = 0) -> Iterator[messages.Message]:
        """The answers that have come."""
        while self.socket.poll(wait):
            try:
                message, _ = codec.decode(self.socket.recv_multipart())
            except ParkError:
                continue
            if isinstance(message, messages.Failure | messages.Unwelcome | messages.MapFailed):
                self.refused[getattr(message, "error", "") or type(message).__name__] += 1
            elif isinstance(message, messages.Welcome):
                self.epoch = message.epoch
            yield message

    def hello(self) -> None:
        self.send(messages.Hello(os.urandom(16), "mallory", PYTHON, self.number()))

    # -- attacks -------------------------------------------------------------------------------

    def fuzz(self) -> None:
        """Any messages that fit the protocol's types."""
        for _ in range(BURST):
            kind = self.chance.choice(KINDS)
            fields = {
                field.name: any_of(self.chance, field.type)
                for field in msgspec.inspect.type_info(kind).fields  # type: ignore[union-attr]
                if field.required or self.chance.random() < 0.4
            }
            with suppress(ParkError):
                self.send(kind(**fields), self.chance.choice([b"", pack.pack_entries([entry(7, 0)])]))

    def claim_memory(self) -> None:
        """The first piece of a message that says that it is long, and messages of very many frames."""
        head = codec.encode(messages.Heartbeat())[0]
        self.raw(codec.encode(messages.Part(0, (500 << 20) + len(head), len(head)), head))
        self.raw([bytes(16 << 10)] * 100)
        self.raw([bytes(500_000)] * 200)

    def reset(self) -> None:
        """Fill the queue of a connection and reset it, in another process: ZeroMQ may abort there, too."""
        subprocess.run(
            [sys.executable, "-m", "tests.campaign.attackers", *sys.argv[1:], "reset"], check=False
        )
        self.sent += RESET_MESSAGES

    def fill_and_reset(self) -> None:
        """Fill the queue, with heartbeats of ZeroMQ between, and reset the connection."""
        self.connect("clients" if self.key is None else self.port, heartbeat=1)
        for number in range(RESET_MESSAGES):
            self.raw([b"x" * 10])
            if number % 100 == 0:
                time.sleep(0.001)
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as end:
                if end.family == socket.AF_INET:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def run(self, seconds: float) -> None:
        """Attack, in any order, for so long."""
        self.until = time.monotonic() + seconds
        self.begin()
        attacks = self.attacks()
        while time.monotonic() < self.until:
            attack = self.begin if self.chance.random() < AGAIN else self.chance.choice(attacks)
            attack()
            for message in self.answers(10):
                self.judge(message)
        self.until = time.monotonic() + LAST_SECONDS
        self.end()

    def end(self) -> None:
        """Ask for what is refused, until it is: the broker may not have come to it yet."""
        self.begin()
        while not self.refused and time.monotonic() < self.until:
            self.attacks()[0]()
            for message in self.answers(1000):
                self.judge(message)

    def begin(self) -> None:
        self.connect(self.port)
        self.hello()

    def attacks(self) -> list[Callable[[], None]]:
        return [self.fuzz, self.fuzz, self.claim_memory, self.reset, self.reset]

    def judge(self, message: messages.Message) -> None:
        """Look for an answer that must not come."""


class Hoarder(Attacker):
    """A client that opens as much as it can."""

    def attacks(self) -> list[Callable[[], None]]:
        return [*super().attacks(), self.far_requests, self.hoard, self.read_much]

    def read_much(self) -> None:
        """Many fetches of one job of many parts."""
        code = b"a function"
        self.send(messages.Blob(code_hash(code)), code)
        body = messages.Submit(
            self.number(), os.urandom(16), code_hash(code), count=0, closed=False, python="2.7"
        )
        self.send(body)
        job = next((m.job for m in self.answers(2000) if isinstance(m, messages.Accepted)), 0)
        for part in range(2000 if job else 0):
            self.send(messages.Units(part, 1, part == 1999, job=job), pack.pack_entries([b"u"]))
        for _ in range(200 if job else 0):
            self.send(messages.Fetch(self.number(), job, request=True))

    def far_requests(self) -> None:
        code = b"a function"
        self.send(messages.Blob(code_hash(code)), code)
        for when in (1e300, -1e300, float(2**62)):
            submit = messages.Submit(
                self.number(), os.urandom(16), code_hash(code), once=True, python=PYTHON, when=when
            )
            self.send(submit)

    def hoard(self) -> None:
        """Many fetches that wait."""
        self.begin()
        code = b"a function"
        self.send(messages.Blob(code_hash(code)), code)
        body = messages.Submit(self.number(), os.urandom(16), code_hash(code), once=True, python="2.7")
        self.send(body)
        job = next((m.job for m in self.answers(2000) if isinstance(m, messages.Accepted)), 0)
        for number in range(HOARD if job else 0):
            self.send(messages.Fetch(self.number(), job, wait=True, results=False))
            if number % 1000 == 0 and self.refused["LimitReached"]:
                break
            for _ in self.answers():
                pass
        for _ in self.answers(1000):
            pass

    def end(self) -> None:
        while not self.refused["LimitReached"] and time.monotonic() < self.until:
            self.hoard()
            for _ in self.answers(10_000):
                pass


class Thief(Attacker):
    """A client that has no jobs, and wants those of others."""

    def attacks(self) -> list[Callable[[], None]]:
        return [self.steer]

    def steer(self) -> None:
        for job in range(1, BURST):
            number = self.number()
            self.send(
                self.chance.choice(
                    [
                        messages.Stop(number, job),
                        messages.Abort(number, job),
                        messages.Fetch(number, job, request=True),
                        messages.Delete(number, job),
                        messages.Control(number, job, "pause"),
                        messages.Change(number, job, paused=True),
                        messages.Watch(number, job),
                        messages.Files(number, job),
                        messages.Logs(number, job),
                    ]
                )
            )

    def judge(self, message: messages.Message) -> None:
        if isinstance(message, messages.Done | messages.Fetched | messages.Filed | messages.Records):
            self.breaches[f"{type(message).__name__} for another's job"] += 1


class Observer(Thief):
    """An observer that wants to act, too."""

    def attacks(self) -> list[Callable[[], None]]:
        return [self.steer, self.submit, self.subscribe]

    def subscribe(self) -> None:
        """Ask for many topics of the table."""
        self.connect("table", kind=zmq.XSUB)
        for _ in range(5000):
            self.raw([b"\x01" + os.urandom(200)])
        self.begin()

    def submit(self) -> None:
        code = b"a function"
        self.send(messages.Blob(code_hash(code)), code)
        self.send(messages.Submit(self.number(), os.urandom(16), code_hash(code), once=True, python=PYTHON))

    def judge(self, message: messages.Message) -> None:
        super().judge(message)
        if isinstance(message, messages.Accepted):
            self.breaches["Accepted for an observer"] += 1


class BadKernel(Attacker):
    """A kernel of an owner without jobs, which speaks for attempts that it never had."""

    port = "kernels"

    def begin(self) -> None:
        self.connect(self.port)
        claims = [(self.epoch << 32) + self.chance.randrange(2000) for _ in range(8)]
        rows = [[os.urandom(16), n, 1, 1, 0, "runs", 0.0, 0] for n in range(8)]
        hello = messages.KernelHello(
            os.urandom(16), "mallory", "host\x1b[31m", 1, 65536, PYTHON, attempts=claims
        )
        self.send(hello, codec.pack(rows))
        list(self.answers(500))

    def attacks(self) -> list[Callable[[], None]]:
        return [self.fuzz, self.announce, self.forge, self.name_much, *(3 * [self.reset])]

    def name_much(self) -> None:
        """Heartbeats that name thousands of attempts, of which each is answered."""
        for _ in range(BURST):
            self.send(messages.Heartbeat(self.epoch, list(range(4000))))

    def announce(self) -> None:
        packages = {"numpy": "9" * 5000}
        self.send(messages.KernelHello(os.urandom(16), "mallory", "h", 1, 1, PYTHON, packages=packages))

    def forge(self) -> None:
        """Answers, deaths and messages of others' attempts, whose numbers count up."""
        payload = pack.pack_entries([entry(-666, 0)])
        for number in range(4000):
            attempt = (self.epoch << 32) + number
            self.send(messages.Finished(attempt, os.urandom(16), 0, 1, 0.1, epoch=self.epoch), payload)
            if number % 10 == 0:
                self.send(messages.Crashed([attempt], "forged", epoch=self.epoch))
                self.send(messages.Publish(number % 40, attempt, "log", number=1), b"forged")


class Stranger(Attacker):
    """No key at all."""

    def begin(self) -> None:
        self.connect(
            "clients", Path(os.environ["A_KEY"])
        )  # for the broker's public half; its own pair is new
        self.hello()

    def attacks(self) -> list[Callable[[], None]]:
        return [self.knock]

    def knock(self) -> None:
        """Plain connections that say nothing of use."""
        port = self.chance.choice(list(self.endpoints.values()))
        host, _, number = port.removeprefix("tcp://").rpartition(":")
        doors = []
        for _ in range(BURST):
            with suppress(OSError):
                door = socket.create_connection((host, int(number)), 1.0)
                doors.append(door)
                door.sendall(self.chance.randbytes(self.chance.choice([1, 10, 64, 4000])))
        time.sleep(0.1)
        for door in doors:
            door.close()

    def end(self) -> None:
        """A stranger gets no answer."""

    def judge(self, message: messages.Message) -> None:
        self.breaches["an answer to a stranger"] += 1


ROLES = {kind.__name__: kind for kind in (Hoarder, Thief, Observer, BadKernel, Stranger)}


def main(role: str, endpoints: str, key: str, seconds: str, seed: str, what: str = "") -> None:
    attacker = ROLES[role](json.loads(endpoints), Path(key) if key else None, int(seed))
    if what == "reset":
        attacker.until = time.monotonic() + 10.0
        attacker.fill_and_reset()
        os._exit(0)
    attacker.run(float(seconds))
    report = {"sent": attacker.sent, "refused": attacker.refused, "breaches": attacker.breaches}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
