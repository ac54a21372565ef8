"""Packet filters of Linux on single sockets: the system drops packets before the socket sees them.

A listening socket gives its filter to the connections that it accepts. Packets begin with the TCP header there.

Resets are dropped because of a fault of ZeroMQ. While the queue of a connection is full, libzmq 4.3.5 takes a reset for an
error and stops. When the queue has room again it reads on, and if it then comes to a heartbeat of ZeroMQ it ends the
process (it asserts ``!_io_error``). So any peer could end a broker: it fills its queue, sends a heartbeat, and resets the
connection. Without resets such a connection is like one whose peer has lost its network. To ZeroMQ the end of that by the
system would be the same error; so `park.net.connections` cuts it before, by an end of input that ZeroMQ reads in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket as plain
import struct

#: The option of sockets, which Python does not name.
_SO_ATTACH_FILTER = 26
#: Keep all, or nothing, of a packet.
_KEEP, _DROP = (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)
#: Load the byte of the flags; if it has that of a reset, skip one instruction.
_FLAGS, _SKIP_IF_RESET = (0x30, 0, 0, 13), (0x45, 1, 0, 0x04)


def drop_all(socket: plain.socket) -> None:
    """Drop all packets: no connection is accepted, or nothing more comes through this one."""
    _attach(socket, _DROP)


def drop_resets(socket: plain.socket) -> None:
    """Drop packets that reset a connection."""
    _attach(socket, _FLAGS, _SKIP_IF_RESET, _KEEP, _DROP)


def _attach(socket: plain.socket, *program: tuple[int, int, int, int]) -> None:
    """Replace the filter of the socket; nothing on a system without such filters."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    with contextlib.suppress(OSError):
        address = struct.pack("HL", len(program), ctypes.addressof(code))
        socket.setsockopt(plain.SOL_SOCKET, _SO_ATTACH_FILTER, address)
