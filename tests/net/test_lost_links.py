"""A caller whose link was cut connects anew: the system alone would try the old connection for minutes."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest
import zmq

from park.net import polled
from park.net.callers import Dealer
from park.net.packet_filters import drop_all
from park.wire import codec, messages
from tests.support.fabric import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system drops packets by a filter")


@pytest.fixture
def door() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind("tcp://127.0.0.1:*")
        yield router


def test_a_caller_whose_packets_are_lost_connects_anew(
    door: zmq.Socket[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polled, "SILENCE_SECONDS", 2)
    monitor = door.get_monitor_socket(zmq.EVENT_ACCEPTED)
    dealer = Dealer(door.get_string(zmq.LAST_ENDPOINT))
    heartbeat = codec.encode(messages.Heartbeat())

    def accepted() -> int:
        """The descriptor of the connection that has come next; 0: none has."""
        if not monitor.poll(0):
            return 0
        return int.from_bytes(monitor.recv_multipart()[0][2:6], sys.byteorder)

    def arrives() -> bool:
        dealer.send(list(heartbeat))
        return bool(door.poll(10))

    try:
        first = until(accepted)
        until(arrives)
        with socket.socket(fileno=socket.dup(first)) as end:
            drop_all(end)
        while door.poll(0):
            door.recv_multipart()

        def anew() -> int:
            dealer.send(list(heartbeat))
            return accepted()

        assert until(anew) != 0
        until(arrives)
    finally:
        dealer.close()
        door.disable_monitor()
        monitor.close(0)
