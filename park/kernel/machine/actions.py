"""The actions that the kernel's machine returns, and the loop carries out."""

from __future__ import annotations

from msgspec import Struct

from park.wire.messages import Message, Offer, Serve
from park.wire.pack import Buffer


class ToBroker(Struct, frozen=True, gc=False):
    """Send a message to the broker."""

    message: Message
    payload: Buffer = b""


class ToSlot(Struct, frozen=True, gc=False):
    """Send a message to a slot process."""

    process: int
    message: Message
    payload: Buffer = b""


class StartProcess(Struct, frozen=True, gc=False):
    """Start process *process* in an *environment* ("": the kernel's own) with this many CPU threads.

    It sees these *devices* (GPUs) only.
    """

    process: int
    cpus: int
    devices: tuple[int, ...] = ()
    environment: str = ""


class InterruptProcess(Struct, frozen=True, gc=False):
    """Raise park.Abort in the body that the process runs."""

    process: int


class Withdraw(Struct, frozen=True, gc=False):
    """Take the units of the attempt that the process has not begun. `KernelMachine.withdrawn` is told of their number."""

    process: int
    attempt: int


class CloseProcess(Struct, frozen=True, gc=False):
    """Close the channel of the process: it cleans up and exits."""

    process: int


class KillProcess(Struct, frozen=True, gc=False):
    """End the process, and the processes that it started, at once."""

    process: int


class ShareCode(Struct, frozen=True, gc=False):
    """Put *code* where other kernels can take it, those of other machines too if *abroad*, and say where that is."""

    code: bytes
    data: Buffer
    abroad: bool = False


class TakeCode(Struct, frozen=True, gc=False):
    """Take code from another kernel."""

    offer: Offer


class ServeCode(Struct, frozen=True, gc=False):
    """Another kernel will fetch code."""

    serve: Serve


Action = (
    ToBroker
    | ToSlot
    | StartProcess
    | InterruptProcess
    | Withdraw
    | CloseProcess
    | KillProcess
    | ShareCode
    | TakeCode
    | ServeCode
)
