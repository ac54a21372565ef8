"""Random messages to a live broker, with the rights of one role (``python -m tests.campaign.fuzz ENDPOINTS ROLE ...``).

A half of them fit the protocol's types, as `Attacker.fuzz` makes them. The others are mutated: a few bits, bytes or
frames of such a message are changed, left out or doubled. The program prints a JSON object with the messages that it sent
and the answers that it got, by kind.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import zmq

from park.model import PYTHON
from park.net.keys import CLIENT, KERNEL, OBSERVER
from park.wire import messages
from tests.campaign.attackers import BURST, Attacker

#: The door of each role, and the role of its key.
ROLES = {
    "client": ("clients", CLIENT),
    "kernel": ("kernels", KERNEL),
    "observer": ("clients", OBSERVER),
    "mirror": ("table", CLIENT),
}
#: Messages between two connections.
A_LIFE = 500


class Fuzzer(Attacker):
    """Sends *count* random messages as a peer of *role*."""

    def __init__(self, endpoints: dict[str, str], role: str, key: Path, count: int, seed: int) -> None:
        super().__init__(endpoints, key, seed)
        self.port, _ = ROLES[role]
        self.count = count
        self.answered: Counter[str] = Counter()
        self._mutates = False

    def raw(self, frames: Any) -> None:
        super().raw(self._mutated(frames) if self._mutates else frames)

    def _mutated(self, frames: Any) -> list[bytes]:
        chance = self.chance
        found = [bytearray(bytes(frame)) for frame in frames]
        for _ in range(chance.choice([1, 1, 2, 5])):
            frame = chance.choice(found) if found else bytearray()
            at = chance.randrange(len(frame) + 1)
            match chance.randrange(6):
                case 0 if at < len(frame):
                    frame[at] ^= 1 << chance.randrange(8)
                case 1:
                    frame[at : at + chance.randrange(8)] = chance.randbytes(chance.randrange(8))
                case 2:
                    del frame[at:]
                case 3:
                    frame += frame[at:]
                case 4:
                    found.append(bytearray(chance.randbytes(chance.randrange(20))))
                case 5 if len(found) > 1:
                    found.remove(frame)
        return [bytes(frame) for frame in found] or [b""]

    def begin(self) -> None:
        if self.port == "table":
            self.connect(self.port, kind=zmq.XSUB)
            return
        super().begin()

    def hello(self) -> None:
        if self.port == "kernels":
            self.send(messages.KernelHello(os.urandom(16), "mallory", "host", 1, 2, PYTHON))
        else:
            super().hello()

    def feed(self) -> None:
        """Send all messages, over one connection after the other."""
        until = 0
        while self.sent < self.count:
            if self.sent >= until:
                until = self.sent + A_LIFE
                self._mutates = False
                self.begin()
            before = self.sent
            self._mutates = self.chance.random() < 0.5
            if self.port == "table":
                for _ in range(BURST):
                    self.raw([b"\x01" + self.chance.randbytes(self.chance.randrange(30))])
            else:
                self.fuzz()
            self._hear()
            if self.sent == before:  # the broker has cut the connection
                until = self.sent

    def _hear(self) -> None:
        if self.port == "table":  # it gives heads and changes of the table
            while self.socket.poll(0):
                self.socket.recv_multipart()
                self.answered["of the table"] += 1
            return
        seen = Counter(type(message).__name__ for message in self.answers(5))
        self.answered += seen
        if seen["Unwelcome"]:  # one of the messages was a Goodbye, or has made the broker forget the peer
            self._mutates = False
            self.hello()


def main(endpoints: str, role: str, key: str, count: str, seed: str) -> None:
    fuzzer = Fuzzer(json.loads(endpoints), role, Path(key), int(count), int(seed))
    fuzzer.feed()
    print(
        json.dumps({"sent": fuzzer.sent, "answered": fuzzer.answered, "refused": fuzzer.refused}), flush=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
