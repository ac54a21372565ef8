"""A peer that fills its queue at a broker and closes or resets its connection: the broker's process lives on."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import zmq

from park.net import sockets
from tests.support.fabric import ENVIRONMENT

#: A broker's socket that is behind, and a peer that sends and dies; then the time of several heartbeats of ZeroMQ.
SCRIPT = """
    import os, sys, time, zmq
    from park.net.sockets import Router
    router = Router()
    if len(sys.argv) > 2:
        router._socket.setsockopt(zmq.HEARTBEAT_IVL, int(sys.argv[2]))
        router._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
    router._socket.bind(sys.argv[1])
    child = os.fork()
    if child == 0:
        dealer = zmq.Context().socket(zmq.DEALER)
        dealer.sndhwm = 0
        dealer.connect(sys.argv[1])
        for _ in range(500):
            dealer.send(b"x" * 10_000)
        time.sleep(0.3)
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.5)
    print("alive", flush=True)
    os._exit(0)
"""


#: The same at a door with keys. The peer sends heartbeats of ZeroMQ between its messages, and resets its connection. The
#: broker reads on after this time (seconds), where three seconds without a sign end a connection.
RESET_SCRIPT = """
    import os, pathlib, socket, struct, sys, time, zmq
    from park.net import connections, descriptors, polled
    from park.net.keys import Keyring
    from park.net.authenticator import Authenticator
    from park.net.sockets import KeyedRouter

    if "bare" in sys.argv:
        descriptors.drop_resets = lambda socket: None
    connections.SWEEP_SECONDS = 0.1
    connections.SILENCE_SECONDS = polled.SILENCE_SECONDS = 3
    polled.PROBE_SECONDS = 1
    folder = pathlib.Path(sys.argv[1])
    ring = Keyring(folder)
    ring.pair()
    key = ring.new("mallory", "client", folder / "mallory.key")
    address, told = os.pipe(), os.pipe()
    if os.fork() == 0:
        dealer = zmq.Context().socket(zmq.DEALER)
        dealer.sndhwm = 0
        dealer.heartbeat_ivl, dealer.heartbeat_timeout = 1, 60_000
        dealer.curve_publickey, dealer.curve_secretkey = key.public.encode(), key.secret.encode()
        dealer.curve_serverkey = key.broker.encode()
        dealer.connect(os.read(address[0], 100).decode())
        dealer.send(b"hello")
        os.read(told[0], 1)
        for number in range(4000):
            dealer.send(b"x" * 10)
            if number % 50 == 0:
                time.sleep(0.001)
        time.sleep(0.2)
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            try:
                end = socket.socket(fileno=os.dup(descriptor))
            except OSError:
                continue
            if end.family == socket.AF_INET:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
        os._exit(0)
    reserve = descriptors.DescriptorReserve(1000)
    keeper = Authenticator(ring.pair(), ring.find, reserve, ring)
    door = KeyedRouter(keeper, "clients")
    os.write(address[1], door.bind("tcp://127.0.0.1:0").encode())
    reserve.start()

    def receive():
        keeper.stir()
        keeper.turn(time.monotonic())
        door.stir()
        return door.receive()

    while not receive():
        time.sleep(0.01)
    os.write(told[1], b"!")
    os.wait()
    time.sleep(float(sys.argv[2]))
    count, until = 0, time.monotonic() + 0.5
    while time.monotonic() < until:
        count += bool(receive())
    print("alive" if count else "deaf", flush=True)
    os._exit(0)
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)


def test_a_peer_that_fills_its_queue_and_dies_harms_nobody(tmp_path: Path) -> None:
    assert run(SCRIPT, f"ipc://{tmp_path}/a").stdout == "alive\n"


def test_with_heartbeats_of_zeromq_it_would(tmp_path: Path) -> None:
    if zmq.zmq_version_info() > (4, 3, 5):
        pytest.skip("this version of ZeroMQ may have mended it")
    assert "Assertion failed: !_io_error" in run(SCRIPT, f"ipc://{tmp_path}/a", "50").stderr


@pytest.mark.skipif(sys.platform != "linux", reason="packet filters of sockets")
def test_a_peer_that_sends_heartbeats_and_resets_its_connection_harms_nobody(tmp_path: Path) -> None:
    assert run(RESET_SCRIPT, str(tmp_path), "0.2").stdout == "alive\n"


@pytest.mark.skipif(sys.platform != "linux", reason="packet filters of sockets")
def test_nor_does_it_when_the_broker_reads_long_after_it_has_gone(tmp_path: Path) -> None:
    assert run(RESET_SCRIPT, str(tmp_path), "6.0").stdout == "alive\n"


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="packet filters of sockets")
def test_without_the_filter_of_resets_it_would(tmp_path: Path) -> None:
    if zmq.zmq_version_info() > (4, 3, 5):
        pytest.skip("this version of ZeroMQ may have mended it")
    seen = ""
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        seen += run(RESET_SCRIPT, str(folder), "0.2", "bare").stderr
        if "Assertion failed: !_io_error" in seen:
            return
    raise AssertionError(f"no process was ended: {seen}")


def test_no_socket_of_a_broker_has_heartbeats_of_zeromq() -> None:
    for kind in (sockets.Router, sockets.Publisher):
        socket = kind()
        assert socket._socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
        socket.close()
