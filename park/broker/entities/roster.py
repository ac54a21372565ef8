"""The kernels and clients that are connected: their slots, what they hold, and when they fall silent.

A kernel has a lease on each of its attempts, and each of its messages renews all of them. A kernel or a client that is
silent for one lease counts as lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from msgspec.structs import replace

from park.broker.effects import Effects, Peer
from park.broker.entities.devices import Devices
from park.broker.entities.processes import Processes
from park.broker.entities.requirements import KernelProfile, Kind, Needs
from park.model import Account, KernelRecord, Serves

#: Drivers that a kernel may hold for each of its slots while they wait in a map, and with those of owners and priorities
#: of which it has none.
DRIVERS_PER_SLOT, MAX_DRIVERS_PER_SLOT = 4, 8
#: With more members than this, heartbeats and ends of leases may come late by an eighth of a heartbeat.
MANY_MEMBERS = 256


@dataclass(slots=True)
class Kernel:
    """One connected kernel.

    It has more than 20 attributes: handlers of all subjects note here what they have given to the kernel.
    """

    peer: Peer
    number: int
    incarnation: bytes
    user: str
    host: str
    pid: int
    slots: int
    python: str
    #: its resources, and the owners that it serves
    profile: KernelProfile
    #: when its last message came, and when the last message went to it
    last_heard: float
    last_sent: float
    #: attempts that occupy slots now
    running: set[int] = field(default_factory=set)
    #: slots that these attempts occupy, slots that are left, and bytes that the attempts need
    busy: int = 0
    free: int = field(init=False)
    memory: int = 0
    #: attempts that wait there for a slot, the next one first: they begin as soon as one is free
    ahead: dict[int, None] = field(default_factory=dict)
    #: drivers that wait in a map and occupy none
    parked: set[int] = field(default_factory=set)
    #: code that was sent to it
    known: set[bytes] = field(default_factory=set)
    #: jobs that ran here and may have to clean up
    jobs: set[int] = field(default_factory=set)
    #: the jobs whose end its fetches wait for, by attempt and id
    fetches: dict[tuple[int, int], int] = field(default_factory=dict)
    #: answers to it of which the end has not been sent
    long_answers: int = 0
    #: the account of the key that it showed; None: it came over ipc or a lane
    account: Account | None = None
    #: the batch job in whose allocation it runs, and its node's name there
    batch: str = ""
    node: str = ""
    #: the machine and Unix user that share its files in memory; "": it takes no code from other kernels
    machine: str = ""
    #: the IP address at which kernels of other machines fetch code from it, as it does from them; "": they do not
    peers: str = ""
    #: the job that a slot here has just served: its process has it prepared
    last: int = 0
    #: the job for whose wide unit slots are kept free
    reserved: int = 0
    #: the turn in which it joined; the kernel gets no work until that turn is on disk
    joined: int = 0
    #: when the time of what runs was last looked at
    accrued: float = 0.0
    #: attempts whose answers are on disk and not confirmed to the kernel; their bytes; the time of the last confirmation
    confirm: list[int] = field(default_factory=list)
    confirm_bytes: int = 0
    confirmed: float = 0.0
    #: the last message of each attempt's stream that is on disk and not acknowledged to the kernel; the time of the last
    #: acknowledgement; and about how many messages wait for one
    stream_acks: dict[int, int] = field(default_factory=dict)
    stream_acks_sent: float = 0.0
    stream_acks_due: int = 0
    #: it has given back units that waited there, so no unit waits there again until it has a free slot
    stalled: bool = False
    #: it takes no new work, and will leave
    draining: bool = False
    #: the owners whose new work it takes now, and why it takes less than it might
    serves: Serves = Serves.ALL
    pause: str = ""
    #: its profile while nothing keeps it from work
    announced: KernelProfile = field(init=False)
    devices: Devices = field(init=False)
    processes: Processes = field(init=False)
    #: the seconds in which it must hand back its work, if it was asked to leave and perhaps does not know it
    grace: float | None = None
    #: the peers that asked for the drain, and the ids of their requests
    drainers: list[tuple[Peer, int]] = field(default_factory=list)

    @property
    def offers(self) -> int:
        """The slots that may get new work, now or later."""
        return 0 if self.closed else self.slots

    @property
    def closed(self) -> bool:
        """Whether it takes no new work now."""
        return self.draining or self.serves is Serves.NONE

    def __post_init__(self) -> None:
        self.free = self.slots
        self.announced = self.profile
        self.devices = Devices(self.profile.gpus)
        self.processes = Processes(self.slots)

    def occupy(self, needs: Needs, devices: tuple[int, ...]) -> None:
        """Give slots, memory and these devices to a unit."""
        self.busy += needs.cpus
        self.free -= needs.cpus
        self.memory += needs.memory
        self.devices.take(devices, needs.gpus)

    def vacate(self, needs: Needs, devices: tuple[int, ...]) -> None:
        """Take back the slots, memory and devices of a unit."""
        self.busy -= needs.cpus
        self.free += needs.cpus
        self.memory -= needs.memory
        self.devices.give_back(devices, needs.gpus)

    def has_slots(self, needs: Needs) -> bool:
        """Whether slots and memory are free now for a unit that may run here."""
        return self.free >= needs.cpus and (
            not needs.memory or self.profile.memory - self.memory >= needs.memory
        )

    def fits(self, needs: Needs) -> bool:
        """Whether slots, memory and GPUs are free now for a unit that may run here."""
        return self.has_slots(needs) and (not needs.gpus or self.devices.choose(needs.gpus) is not None)

    def cost(self, needs: Needs) -> float:
        """The slots to charge for a unit: those of the larger of its parts of the slots and of the GPUs."""
        if not (needs.gpus and self.profile.gpus):
            return needs.cpus
        return max(float(needs.cpus), needs.gpus * self.slots / self.profile.gpus)

    @property
    def holds(self) -> set[int]:
        """All attempts that were given to it."""
        return self.running | self.parked | self.ahead.keys()

    @property
    def full_of_drivers(self) -> bool:
        """Whether a further driver may start here only if none of its owner waits here, or none of its priority."""
        return len(self.parked) >= DRIVERS_PER_SLOT * self.slots

    @property
    def takes(self) -> Kind:
        """The kinds of code of which any job may start a unit here: this one and those before it."""
        if not self.full_of_drivers:
            return Kind.DRIVER
        return Kind.UNKNOWN if len(self.parked) < (DRIVERS_PER_SLOT + 1) * self.slots else Kind.PLAIN

    def record(self) -> KernelRecord:
        return KernelRecord(
            kernel=self.number,
            host=self.host,
            pid=self.pid,
            slots=self.slots,
            busy=self.busy,
            drivers=len(self.parked),
            python=self.python,
            memory=self.profile.memory,
            labels=self.profile.labels,
            owner=self.announced.owner,
            only=self.announced.only,
            draining=self.draining,
            batch=self.batch,
            node=self.node,
            serves=self.serves,
            pause=self.pause,
            job=self.profile.job,
            gpus=self.profile.gpus,
            gpus_busy=self.devices.busy,
            environments=tuple(" ".join(pair) for pair in self.profile.environments),
        )


@dataclass(slots=True)
class Client:
    """One connected client."""

    peer: Peer
    incarnation: bytes
    user: str
    python: str
    #: when its last message came, and when the last message went to it
    last_heard: float
    last_sent: float
    number: int = 0
    #: sessions, and jobs that it still feeds with inputs: they end with it
    open: set[int] = field(default_factory=set)
    #: it does not take its results as fast as they come
    slow: bool = False
    #: the jobs whose end its fetches wait for, by attempt (0) and id
    fetches: dict[tuple[int, int], int] = field(default_factory=dict)
    #: answers to it of which the end has not been sent
    long_answers: int = 0
    #: the account of the key that it showed; None: it came over ipc or a lane
    account: Account | None = None

    @property
    def admin(self) -> bool:
        """Whether it is the broker's own Unix user: no other user can connect without a key."""
        return self.account is None


Member = Kernel | Client


class Roster:
    """The connected kernels and clients. *heartbeat* and *lease* in seconds."""

    def __init__(self, heartbeat: float, lease: float) -> None:
        self.heartbeat = heartbeat
        self.lease = lease
        self.kernels: dict[Peer, Kernel] = {}
        self.clients: dict[Peer, Client] = {}
        self._kernel_of: dict[bytes, Kernel] = {}
        self._client_of: dict[bytes, Client] = {}
        #: slots of the kernels that take new work: of kernels that serve all owners; of kernels that serve one owner or
        #: one job, by its name or number
        self.slots = 0
        self.slots_of: Counter[str | int] = Counter()
        self._next_kernel = 1
        self._last_client = 0
        #: when `look` may next find something; messages only move the ends of leases and heartbeats to later
        self.next_look = float("inf")

    def join_kernel(
        self,
        peer: Peer,
        incarnation: bytes,
        user: str,
        host: str,
        pid: int,
        profile: KernelProfile,
        now: float,
        account: Account | None = None,
    ) -> Kernel:
        """*account*: the account of the key that it showed. If that is no pool key, the kernel runs units of that owner
        only.
        """
        if account is not None and not account.pool:
            profile = replace(profile, owner=account.name, only=True)
        slots, python = profile.slots, profile.python
        kernel = Kernel(
            peer, self._next_kernel, incarnation, user, host, pid, slots, python, profile, now, now
        )
        kernel.account = account
        self._next_kernel += 1
        self.kernels[peer] = self._kernel_of[incarnation] = kernel
        self._count(kernel, kernel.offers)
        self.next_look = min(self.next_look, now + min(self.heartbeat, self.lease))
        return kernel

    def join_client(
        self,
        peer: Peer,
        incarnation: bytes,
        user: str,
        python: str,
        now: float,
        account: Account | None = None,
    ) -> Client:
        self._last_client += 1
        client = Client(peer, incarnation, user, python, now, now, self._last_client, account=account)
        self.clients[peer] = self._client_of[incarnation] = client
        self.next_look = min(self.next_look, now + min(self.heartbeat, self.lease))
        return client

    def move(self, member: Member, peer: Peer, now: float) -> None:
        """Note that a kernel or client came back, perhaps over a new connection."""
        self.drop(member)
        member.peer, member.last_heard = peer, now
        if isinstance(member, Kernel):
            self.kernels[peer] = self._kernel_of[member.incarnation] = member
            self._count(member, member.offers)
        else:
            self.clients[peer] = self._client_of[member.incarnation] = member

    def drop(self, member: Member) -> None:
        """A member is gone."""
        if isinstance(member, Kernel):
            del self.kernels[member.peer], self._kernel_of[member.incarnation]
            self._count(member, -member.offers)
        else:
            del self.clients[member.peer], self._client_of[member.incarnation]

    def drain(self, kernel: Kernel) -> None:
        """The kernel takes no new work any more."""
        self._count(kernel, -kernel.offers)
        kernel.draining = True

    def serve(self, kernel: Kernel, serves: Serves, pause: str) -> None:
        """The kernel takes new work of these owners only."""
        self._count(kernel, -kernel.offers)
        kernel.serves, kernel.pause = serves, pause
        only = kernel.announced.only or serves is Serves.OWN
        kernel.profile = replace(kernel.announced, only=only)
        self._count(kernel, kernel.offers)

    def _count(self, kernel: Kernel, slots: int) -> None:
        if kernel.profile.job or kernel.profile.only:
            self.slots_of[kernel.profile.job or kernel.profile.owner] += slots
        else:
            self.slots += slots

    def slots_for(self, owner: str, job: int = 0) -> int:
        """The slots that may run the owner's units, or those of a private *job*: a kernel counts only for the owners
        that it serves.
        """
        return self.slots_of[job] if job else self.slots + self.slots_of[owner]

    def member(self, peer: Peer) -> Member | None:
        return self.kernels.get(peer) or self.clients.get(peer)

    def kernel_of(self, incarnation: bytes) -> Kernel | None:
        return self._kernel_of.get(incarnation)

    def client_of(self, incarnation: bytes) -> Client | None:
        return self._client_of.get(incarnation)

    def heard(self, peer: Peer, now: float) -> bool:
        """A message came from *peer*; False if it is not known."""
        member = self.kernels.get(peer) or self.clients.get(peer)
        if member is None:
            return False
        member.last_heard = now
        return True

    def said_to(self, effects: Effects) -> None:
        """Note that the receivers of these messages need no heartbeat for a while."""
        kernels, clients = self.kernels, self.clients
        for sends in (effects.sends, effects.sends_after_commit):
            for send in sends:
                member = kernels.get(send.peer) or clients.get(send.peer)
                if member is not None:
                    member.last_sent = effects.now

    def look(self, now: float) -> tuple[list[Member], list[Member]]:
        """The members whose lease has run out, and the members that are due a heartbeat."""
        if now < self.next_look:
            return [], []
        # the same sums as in the deadlines; with other rounding a deadline might come before anything is due
        members: list[Member] = [*self.kernels.values(), *self.clients.values()]
        silent = [m for m in members if now >= m.last_heard + self.lease]
        there = [m for m in members if now < m.last_heard + self.lease]
        due = [m for m in there if now >= m.last_sent + self.heartbeat]
        for member in due:
            member.last_sent = now
        deadlines = (min(m.last_heard + self.lease, m.last_sent + self.heartbeat) for m in there)
        self.next_look = min(deadlines, default=float("inf"))
        if len(there) > MANY_MEMBERS:  # a look at all members for each heartbeat would cost too much
            self.next_look = max(self.next_look, now + self.heartbeat / 8)
        return silent, due
