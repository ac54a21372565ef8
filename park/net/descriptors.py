"""A reserve of file descriptors: the broker accepts no connection over TCP while few descriptors are free.

ZeroMQ ends the process when it cannot accept a connection on a Unix socket for want of a descriptor, and any stranger can
take descriptors over TCP. So a thread counts the connections that the listening sockets on TCP accept, and the open
descriptors of the process. Where the reserve begins, it shuts the listening sockets: the system drops the packets that
would open a connection, and the callers try again by themselves. Open connections go on. Strangers that never finish a
handshake are cut after the time limit of the handshake, and the sockets listen again.

One system call shuts a listening socket. The loop of the broker need not be idle for it. A socket that listens drops
resets of connections; `park.net.packet_filters` says why.
"""

from __future__ import annotations

import contextlib
import os
import socket as plain
import sys
import threading
import time
from collections.abc import Callable, Iterator

import zmq

from park.net.packet_filters import drop_all, drop_resets
from park.util.stdio import record, tell

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: Below this limit the log says at the start that few connections are possible.
LOW_LIMIT = 4096
#: Descriptors that are used at most, however high the limit is.
MAX_DESCRIPTORS = 65_536
#: The reserve is a quarter of the limit. It is at least this, or half of a limit that is still lower.
MIN_RESERVE = 512
#: Seconds between two counts of the open descriptors.
COUNT_SECONDS = 1.0
#: Seconds between two reports that the listening sockets are shut.
REPORT_SECONDS = 60.0


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one. Returns the limit that holds, at most `MAX_DESCRIPTORS`."""
    if resource is None:
        return MAX_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some sandboxes do not allow it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    limit = MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, MAX_DESCRIPTORS)
    if limit < LOW_LIMIT:
        record(
            f"park-broker: at most {limit:,} files may be open in this process (ulimit -Hn), which allows about "
            f"{most_in_use(limit):,} connections",
            "warning",
        )
    return limit


def most_in_use(limit: int) -> int:
    """The number of open descriptors at which the listening sockets are shut.

    >>> [most_in_use(limit) for limit in (256, 1024, 4096, 65536)]
    [128, 512, 3072, 49152]
    """
    return limit - max(limit // 4, min(MIN_RESERVE, limit // 2))


def open_descriptors() -> int:
    """The number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))


class DescriptorReserve:
    """Watches the listening sockets on TCP, in a thread of its own; *limit*: the number of descriptors that may be open."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.most = most_in_use(limit)
        #: the listening sockets, and their monitors
        self._monitors: list[zmq.Socket[bytes]] = []
        self._listeners: list[plain.socket] = []
        self._thread: threading.Thread | None = None
        self._wake = os.pipe()
        self.is_shut = False
        #: called in the thread with the descriptor of each new connection
        self.opened: Callable[[int], object] = lambda descriptor: None
        #: the time from which on the next shutting is reported, and whether the last one was
        self._tell_at, self._told = 0.0, False

    def watch(self, monitor: zmq.Socket[bytes], listener: int) -> None:
        """Watch a listening socket from `start` on; its *monitor* tells of the connections that it accepts."""
        self._monitors.append(monitor)
        self._listeners.append(plain.socket(fileno=os.dup(listener)))
        drop_resets(self._listeners[-1])

    def start(self) -> None:
        """Begin to watch. From now on the monitors belong to the thread."""
        self._thread = threading.Thread(target=self._run, name="park descriptors", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, before the context of the monitors ends."""
        os.close(self._wake[1])
        if self._thread is not None:
            self._thread.join()
        os.close(self._wake[0])
        for listener in self._listeners:
            listener.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake[0], zmq.POLLIN)
        for monitor in self._monitors:
            poller.register(monitor, zmq.POLLIN)
        free, count_at = 0, 0.0
        while True:
            ready = dict(poller.poll(int(1000 * COUNT_SECONDS)))
            if self._wake[0] in ready:
                break
            for monitor in self._monitors:
                if monitor in ready:
                    for descriptor in _accepted(monitor):
                        free -= 1
                        self.opened(descriptor)
            now = time.monotonic()
            if free <= 0 or now >= count_at:
                free, count_at = self._count(), now + COUNT_SECONDS
        for monitor in self._monitors:
            monitor.close(0)

    def _count(self) -> int:
        """Count the open descriptors, and shut the sockets or let them listen.

        Returns the number of descriptors that may open before the next count.
        """
        used = open_descriptors()
        if not self.is_shut and used >= self.most:
            self._shut(True)
            self._told = time.monotonic() >= self._tell_at
            self._tell(
                f"{used:,} of {self._limit:,} possible files are open: no connection over TCP is accepted "
                "until some are closed; Unix sockets go on"
            )
        elif self.is_shut and used <= self.most * 3 // 4:
            self._shut(False)
            self._tell("connections over TCP are accepted again")
        return max(self.most - used, 1)

    def _tell(self, text: str) -> None:
        """Report one shutting in a minute, and its end."""
        if self._told:
            self._tell_at = time.monotonic() + REPORT_SECONDS
            tell(f"park-broker: {text}", "warning")

    def _shut(self, shut: bool) -> None:
        self.is_shut = shut
        for listener in self._listeners:
            (drop_all if shut else drop_resets)(listener)


def _accepted(monitor: zmq.Socket[bytes]) -> Iterator[int]:
    """The descriptors of the connections that the monitor reports now: each event has 16 bits, then the descriptor."""
    with contextlib.suppress(zmq.Again):
        while True:
            yield int.from_bytes(monitor.recv_multipart(zmq.DONTWAIT)[0][2:6], sys.byteorder)
