"""The kernels that hold long code, and those that wait for it: which one takes it from which.

The broker sends long code to as few kernels as it can. A kernel that needs code which another one has, or is about to
get, takes it from that one. Kernels of one machine and one Unix user share a file in memory. Kernels of different
machines fetch it over TCP: the first kernel of each machine does, at most two at a time from one holder, and the others
of its machine wait for it.

A kernel that could not take the code says so. The broker does not lead it to the same holder again. After two such
tries, or a wait in vain, it gets the code from the broker. The knowledge here only saves time: the broker sends
forgotten code once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address

from msgspec import Struct, field

from park.broker.entities.roster import Kernel

#: Code from this size on is taken from other kernels (bytes).
MIN_SPREAD_BYTES = 1 << 20
#: The most codes whose holders are known; codes that no kernel waits for are forgotten first.
MAX_SPREADS = 256
#: Kernels that fetch a code from one holder at the same time, at most.
MAX_UPLOADS = 2
#: Holders from which a kernel could not take a code, after which the broker sends it.
MAX_FAILURES = 2


class SpreadStep(Enum):
    """A message that a kernel is to get about a code."""

    #: the code itself
    SEND = "send"
    #: to say where other kernels find the code: kernels of its machine, or of other machines, too
    ASK = "ask"
    ASK_ABROAD = "ask abroad"
    #: the code comes later, from another kernel
    WAIT = "wait"
    #: to take the code from another kernel
    TAKE = "take"


class CodeLocation(Struct, frozen=True):
    """The place of a code in a kernel: the *file* (a descriptor) of its *process*, and for kernels of other machines an
    *address*, the name of the *cipher* text and its *key*. *secret*: for tickets.
    """

    process: int
    file: int
    address: str = ""
    cipher: bytes = b""
    key: bytes = b""
    secret: bytes = b""


class Spread(Struct):
    """One code of *size* bytes on its way to the kernels, which are named by their numbers."""

    size: int
    #: kernels that have the code, or to which it is on its way from the broker
    sent: dict[int, Kernel] = field(default_factory=dict)
    #: the kernels of `sent` that were asked where it is; True: for other machines, too
    asked: dict[int, bool] = field(default_factory=dict)
    #: the kernels of `sent` that cannot serve other machines
    closed: set[int] = field(default_factory=set)
    #: kernels that hold the code, and where
    holders: dict[int, tuple[Kernel, CodeLocation]] = field(default_factory=dict)
    #: kernels that need the code, the first one first; True: they were told to wait
    waiting: dict[int, tuple[Kernel, bool]] = field(default_factory=dict)
    #: kernels that take the code now, and from whom
    taking: dict[int, tuple[Kernel, int]] = field(default_factory=dict)
    #: the holders from which a kernel could not take the code
    failed: dict[int, set[int]] = field(default_factory=dict)
    #: kernels that get the code from the broker alone
    direct: set[int] = field(default_factory=set)

    @property
    def is_idle(self) -> bool:
        """Whether no kernel is on its way to the code."""
        return not (self.waiting or self.taking)

    def want(self, kernel: Kernel) -> None:
        """The kernel needs the code."""
        self.forget(kernel.number, for_good=False)
        self.waiting[kernel.number] = kernel, False

    def hold(self, kernel: Kernel, place: CodeLocation) -> bool:
        """The kernel says that it has the code. Returns whether that can be."""
        number = kernel.number
        if number not in self.sent and number not in self.taking and number not in self.waiting:
            return False
        closed = number in self.closed or (self.asked.get(number, False) and not place.address)
        self.forget(number, for_good=False)
        self.sent[number] = kernel
        self.holders[number] = kernel, place
        if closed:
            self.closed.add(number)
        return True

    def lack(self, number: int) -> None:
        """The kernel lacks the code: it has dropped the code, could not take it, or has waited in vain."""
        if (taken := self.taking.get(number)) is not None:
            failed = self.failed.setdefault(number, set())
            failed.add(taken[1])
            if len(failed) >= MAX_FAILURES:
                self.direct.add(number)
        elif number in self.waiting:
            self.direct.add(number)
        self.forget(number, for_good=False)

    def forget(self, number: int, for_good: bool = True) -> None:
        """The kernel has nothing of the code; *for_good*: it is gone."""
        for each in (self.sent, self.holders, self.waiting, self.taking):
            each.pop(number, None)
        self.asked.pop(number, None)
        self.closed.discard(number)
        if for_good:
            self.failed.pop(number, None)
            self.direct.discard(number)

    def steps(self) -> Iterator[tuple[SpreadStep, Kernel, int]]:
        """The messages that kernels are to get now, with the number of the holder for `SpreadStep.TAKE`, else 0."""
        if not self.waiting:
            return
        sources = _Sources(self)
        for number, (kernel, told) in list(self.waiting.items()):
            near = sources.near(kernel)
            holder = sources.take_from(kernel, near)
            if holder is not None:
                del self.waiting[number]
                self.taking[number] = kernel, holder.number
                sources.add(kernel)
                yield SpreadStep.TAKE, kernel, holder.number
            elif (asked := self._ask(near or sources.far(kernel), abroad=not near)) is not None:
                yield from asked
                if not told:
                    self.waiting[number] = kernel, True
                    yield SpreadStep.WAIT, kernel, 0
            else:
                del self.waiting[number]
                self.sent[number] = kernel
                sources.add(kernel)
                yield SpreadStep.SEND, kernel, 0

    def may_take(self, kernel: Kernel, other: Kernel) -> bool:
        """Whether the kernel may be led to the other one."""
        return kernel.number not in self.direct and other.number not in self.failed.get(kernel.number, ())

    def may_fetch(self, kernel: Kernel, other: Kernel) -> bool:
        """Whether the kernel may fetch the code from one of another machine."""
        if not (kernel.peers and other.peers) or other.number in self.closed:
            return False
        if not self.may_take(kernel, other):
            return False
        return kernel.host == other.host or not _is_loopback(other.peers)

    def uploads(self) -> Counter[int]:
        """The kernels of other machines that take the code now, by the holder that they take it from."""
        return Counter(
            holder
            for taker, holder in self.taking.values()
            if holder in self.holders and not share_files(taker, self.holders[holder][0])
        )

    def _ask(self, kernels: Iterable[Kernel], abroad: bool) -> list[tuple[SpreadStep, Kernel, int]] | None:
        """Ask one of these kernels where the code is, unless one of them will say so anyway. None: there are no
        kernels.
        """
        to_ask, found = None, False
        for kernel in kernels:
            if self._will_say(kernel, abroad):
                return []
            if to_ask is None and kernel.number in self.sent:
                to_ask = kernel
            found = True
        if to_ask is None:
            return [] if found else None
        self.asked[to_ask.number] = abroad
        return [(SpreadStep.ASK_ABROAD if abroad else SpreadStep.ASK, to_ask, 0)]

    def _will_say(self, kernel: Kernel, abroad: bool) -> bool:
        """Whether the kernel has said where the code is, or will without being asked; *abroad*: for other machines."""
        number = kernel.number
        if number in self.asked or (number in self.holders and self.holders[number][1].address):
            return True
        if number not in self.taking:
            return False
        taker, holder = self.taking[number]
        # a kernel that has taken a file has no ciphertext
        return not (abroad and share_files(taker, self.sent.get(holder, taker)))

    def check(self) -> None:
        """Assert the invariants."""
        assert self.holders.keys() <= self.sent.keys()
        assert self.asked.keys() <= self.sent.keys()
        assert self.closed <= self.sent.keys()
        assert not self.sent.keys() & self.waiting.keys()
        assert not self.sent.keys() & self.taking.keys()
        assert not self.waiting.keys() & self.taking.keys()
        assert all(number != holder for number, (_, holder) in self.taking.items())


class _Sources:
    """The kernels that have a code, or will have it soon, as those that wait for it see them.

    Thousands of kernels may wait for one code, so the first holder is found without a look at all others.
    """

    def __init__(self, spread: Spread) -> None:
        self._spread = spread
        self._known: list[Kernel] = []
        self._by_machine: dict[str, list[Kernel]] = {}
        for kernel in (*spread.sent.values(), *(taker for taker, _ in spread.taking.values())):
            self.add(kernel)
        uploads = spread.uploads()
        #: by number: how many more kernels of other machines may fetch the code from this holder now
        self._free = {
            number: MAX_UPLOADS - uploads[number]
            for number, (_, place) in spread.holders.items()
            if place.address and uploads[number] < MAX_UPLOADS
        }

    def add(self, kernel: Kernel) -> None:
        """The kernel will have the code soon."""
        self._known.append(kernel)
        if kernel.machine:
            self._by_machine.setdefault(kernel.machine, []).append(kernel)

    def near(self, kernel: Kernel) -> list[Kernel]:
        """The kernels whose file this one can open."""
        return [k for k in self._by_machine.get(kernel.machine, ()) if self._spread.may_take(kernel, k)]

    def far(self, kernel: Kernel) -> Iterator[Kernel]:
        """The kernels from which this one may fetch the ciphertext."""
        return (k for k in self._known if self._spread.may_fetch(kernel, k))

    def take_from(self, kernel: Kernel, near: list[Kernel]) -> Kernel | None:
        """The kernel from which this one takes the code from now on; None: none can give it now."""
        holders = self._spread.holders
        if near:
            return next((k for k in near if k.number in holders), None)
        free = (holders[number][0] for number in self._free)
        holder = next((k for k in free if self._spread.may_fetch(kernel, k)), None)
        if holder is not None:
            self._free[holder.number] -= 1
            if not self._free[holder.number]:
                del self._free[holder.number]
        return holder


class CodeSharing(Struct):
    """Long code that kernels take from each other."""

    #: by the hash of the code, the first one first
    spreads: dict[bytes, Spread] = field(default_factory=dict)
    #: tickets for fetches that were given out
    tickets: int = 0


@lru_cache(4096)
def _is_loopback(address: str) -> bool:
    return ip_address(address).is_loopback


def share_files(kernel: Kernel, other: Kernel) -> bool:
    """Whether the two kernels can open each other's files."""
    return bool(kernel.machine) and kernel.machine == other.machine
