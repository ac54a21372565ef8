"""One kernel of the command line: from its options to its end."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from park.errors import InvalidRequest
from park.kernel.machine.shutdown import ShutdownPolicy
from park.kernel.nodes import CAME_UP
from park.model import DRAIN_SECONDS
from park.wire.presence import Contact

if TYPE_CHECKING:
    from park.kernel.exchange import CodeExchange
    from park.kernel.loop import KernelLoop
    from park.kernel.node.allocation import BatchJob, NodeAllocation
    from park.kernel.node.interpreter import Interpreter
    from park.kernel.node.this_node import Node
    from park.net.keys import Key
    from park.net.reactor import Component, Reactor
    from park.util.systemd import Supervision

#: Seconds without a broker after which the kernel says so.
AWAY_NOTICE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """The options of ``park-kernel``; its help says what they mean."""

    broker: str | None = None
    slots: str = "auto"
    gpus: str = "auto"
    key: Path | None = None
    owner: str | None = None
    only_own: bool = False
    labels: tuple[str, ...] = ()
    time_limit: float | None = None
    idle_timeout: float | None = None
    away_timeout: float | None = None
    job: int | None = None
    grace: float = DRAIN_SECONDS
    kill_wait: float | None = None
    setup: str | None = None
    python: Path | None = None
    environments: tuple[str, ...] = ()
    peers: bool = True
    until_eof: bool = False
    log_file: Path | None = None
    #: the kernel's own jobs are those of the user that it connects as, if no owner is named
    own_first: bool = False


def run_kernel(
    options: KernelOptions, watch: Callable[[KernelLoop, Reactor, int], Component] | None = None
) -> None:
    """Run a kernel until it has left. Raises ParkError where it cannot begin.

    *watch* makes one more part of its reactor, from the kernel, the reactor and the number of slots.
    """
    from park.identity import usertag
    from park.kernel.loop import KernelLoop
    from park.kernel.node.read_allocation import allocation_here
    from park.model import texts
    from park.net.addresses import find_broker
    from park.net.admission import FIRST_HELLO_SECONDS, key_for, refusal
    from park.net.callers import Dealer
    from park.net.keys import KERNEL, POOL
    from park.util.stdio import log_to
    from park.util.systemd import Supervision

    log_to(options.log_file)
    systemd = Supervision()
    here = allocation_here()
    for remark in here.remarks:
        say(remark, "warning")
    count = slots_of(options.slots, here)
    labels, owner = texts(options.labels, "label"), owner_of(options)
    place = find_broker(options.broker)
    shown = key_for(place, (KERNEL, POOL), file=options.key)
    if owner is None and (options.only_own or options.own_first):
        owner = usertag() if shown is None else shown.name
    policy = policy_of(options, here)
    if options.setup is not None:
        set_up(options.setup)
    reactor = _new_reactor()
    line = Dealer(place.kernels, shown)
    line.wait(FIRST_HELLO_SECONDS)
    node = node_of(options, labels, owner or "", here)
    kernel = KernelLoop(
        *(reactor, line, count, usertag(), node),
        policy=policy,
        on_left=reactor.stop,
        exchange=exchange_of(options, reactor, place.kernels),
    )
    reactor.listen(line.fileno(), line.stir)
    reactor.add(kernel)
    teller = Teller(kernel, place.kernels, lambda: refusal(place.kernels, shown, line.trouble()), systemd)
    reactor.add(teller)
    reactor.add(systemd)
    if watch is not None:
        reactor.add(watch(kernel, reactor, count))
    _listen_for_stops(options, here, kernel, reactor)
    alone = f", for job {options.job} alone" if options.job else ""
    served = f"{alone or whose(owner, options.only_own, shown)}{where(here)}"
    say(f"{_resources(count, len(node.gpus.names))} {CAME_UP.strip()} {place.kernels}{served}")
    systemd.say("READY=1")
    reactor.run()
    say(f"has left: {kernel.machine.state.shutdown}")


def _resources(slots: int, gpus: int) -> str:
    """The slots and GPUs in words.

    >>> _resources(4, 1)
    '4 slots and 1 GPU'
    """
    lent = f" and {gpus} GPU{'s'[: gpus != 1]}" if gpus else ""
    return f"{slots} slot{'s'[: slots != 1]}{lent}"


def exchange_of(options: KernelOptions, reactor: Reactor, broker: str) -> CodeExchange:
    """The exchange of code with other kernels: over TCP at the address from which this machine reaches the *broker*."""
    from park.kernel.exchange import CodeExchange, this_machine
    from park.net.ciphertext import is_available
    from park.net.code_server import interface_to

    address = ""
    if options.peers and broker.startswith("tcp://") and is_available():
        host, _, port = broker.removeprefix("tcp://").rpartition(":")
        with contextlib.suppress(OSError):  # the name of its host is not known yet
            address = interface_to(host.strip("[]"), int(port))
    return CodeExchange(reactor, this_machine(), address)


def _new_reactor() -> Reactor:
    """The reactor of the kernel. SIGTERM is blocked from now on, and each thread that begins later inherits that."""
    from park.net.reactor import Reactor
    from park.util.stdio import keep_numbers

    keep_numbers()
    if TELLS_SENDERS:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    return Reactor()


def _listen_for_stops(
    options: KernelOptions, here: NodeAllocation, kernel: KernelLoop, reactor: Reactor
) -> None:
    kill_wait = here.kill_wait if options.kill_wait is None else options.kill_wait
    stops = Stops(kernel, reactor, kill_wait, here.job is not None)
    for number in (*batch_signals(here.job), signal.SIGINT):
        signal.signal(number, stops)
    if TELLS_SENDERS:
        threading.Thread(target=stops.wait, name="park-stops", daemon=True).start()
    if options.until_eof:
        reactor.listen(0, stops.hear_input)


def say(text: str, level: str = "info") -> None:
    """Write a line on the kernel's terminal or in its log."""
    from park.util.stdio import tell

    tell(f"park-kernel: {text}", level)


def slots_of(text: str, here: NodeAllocation) -> int:
    """The slots by ``--slots``, else by $PARK_SLOTS, else those of the allocation; more than it has are worth a warning."""
    from park.kernel.node.file_limit import fit_slots
    from park.kernel.node.slot_count import check_slots, default_slots

    if text != "auto":
        count = check_slots(int(text) if text.isdigit() else text, "--slots")
    else:
        count = default_slots() if os.environ.get("PARK_SLOTS") else here.slots
    if count > here.slots:
        say(
            f"{count} slots are more than the {here.slots} that there are here ({here.slots_source}): "
            "units share its processors, and take longer",
            "warning",
        )
    count, cut = fit_slots(count)
    if cut:
        say(cut)
    return count


def owner_of(options: KernelOptions) -> str | None:
    """The owner of ``--owner``. Raises InvalidRequest for a name that no owner has."""
    from park.model import owner_name, texts

    if options.owner is not None:
        texts(options.owner, "owner")
        owner_name(options.owner)
    return options.owner


def node_of(options: KernelOptions, labels: tuple[str, ...], owner: str, here: NodeAllocation) -> Node:
    """The description of this node, with its interpreters and GPUs. Raises InvalidRequest."""
    from park.kernel.node.gpus import gpus_of
    from park.kernel.node.this_node import this_node

    interpreter = None if options.python is None else interpreter_of(options.python, "--python")
    environments = environments_of(options.environments)
    gpus = gpus_of(options.gpus, os.environ)
    node = this_node(labels, owner, options.only_own, here, interpreter, gpus)
    return replace(node, job=options.job or 0, environments=environments)


def policy_of(options: KernelOptions, here: NodeAllocation) -> ShutdownPolicy:
    """The rule by which the kernel leaves: on request, and before its allocation ends. Raises InvalidRequest."""
    wanted = ShutdownPolicy(
        time.monotonic(), options.time_limit, options.idle_timeout, options.away_timeout, options.grace
    )
    if wanted.limit is not None and wanted.limit <= wanted.needs:
        raise InvalidRequest(
            f"--time-limit {wanted.limit:g} s leaves no time for work: leaving may take {wanted.needs:g} s, of which "
            f"--grace is {wanted.grace:g} s"
        )
    if here.seconds is None:
        return wanted
    policy = wanted.within(here.seconds)
    if policy.grace < wanted.grace:
        say(
            f"the allocation ends in {here.seconds:.0f} s, and leaving may take {wanted.needs:g} s: the grace is "
            f"{policy.grace:.3g} s instead of {wanted.grace:g} s; a longer wall time leaves more for work",
            "warning",
        )
    return policy


def set_up(command: str) -> None:
    """Take over the environment that *command* leaves in a login shell. Raises InvalidRequest where it fails."""
    from park.kernel.node.setup import environment_after

    try:
        environment = environment_after(command)
    except ValueError as error:
        raise InvalidRequest(f"--setup {command!r}: {error}") from error
    os.environ.clear()
    os.environ.update(environment)


def environments_of(given: Iterable[str]) -> dict[str, Interpreter]:
    """The interpreters of ``--environment NAME=PATH``, by name. Raises InvalidRequest."""
    from park.model import environment_name

    found: dict[str, Interpreter] = {}
    for text in given:
        name, _, place = text.partition("=")
        if not name or not place:
            raise InvalidRequest(f"--environment {text!r} is not written as NAME=PATH")
        if environment_name(name) in found:
            raise InvalidRequest(f"--environment names {name} twice")
        found[name] = interpreter_of(Path(place), f"--environment {name}:")
    return found


def interpreter_of(place: Path, option: str) -> Interpreter:
    """The interpreter at *place*, of an *option*. Raises InvalidRequest where it runs no units."""
    from park.kernel.node.interpreter import interpreter_at

    try:
        return interpreter_at(place)
    except ValueError as error:
        raise InvalidRequest(f"{option} {place}: {error}") from error


def whose(owner: str | None, only: bool, key: Key | None) -> str:
    """The owner that the kernel serves, in words."""
    from park.net.keys import POOL

    if key is not None and key.role != POOL:
        hint = f"; a key for all owners' jobs comes from `park keys new {key.name} --pool`"
        other = f", not {owner}'s" if owner not in (None, key.name) else ""
        return f", for {key.name}'s jobs only{other}, because {key.path} is {key.name}'s kernel key{hint}"
    return f", for {owner}'s jobs {'only' if only else 'first'}" if owner else ""


def where(here: NodeAllocation) -> str:
    """The batch job of the kernel and its end, in words."""
    if here.job is None:
        return ""
    end = "" if here.seconds is None else f", which ends in {timedelta(seconds=round(here.seconds))}"
    return f", in {here.job.system} job {here.job.number} on {here.job.node}{end}"


#: Whether the system tells a waiting thread who has sent a signal, and which processes are below another, as Linux does.
TELLS_SENDERS = sys.platform == "linux"
#: The cause of death of a slot process that has sent SIGTERM to its kernel.
TOLD_TO_STOP = (
    "it sent SIGTERM to its kernel, which serves other jobs too: a unit may end only its own processes"
)


def batch_signals(job: BatchJob | None) -> tuple[int, ...]:
    """The signals that announce the end of the batch *job*: SGE sends SIGUSR2 before its SIGKILL, and no SIGTERM."""
    from park.kernel.node.allocation import SGE

    is_sge = job is not None and job.system == SGE
    return (signal.SIGTERM, signal.SIGUSR2) if is_sge else (signal.SIGTERM,)


class Stops:
    """The handler of the signals that end the kernel: the first in good order, the second at once.

    After a signal of the batch system it has *kill_wait* seconds. A batch system may send it several times, and SIGKILL
    when it wants an end at once.
    """

    def __init__(self, kernel: KernelLoop, reactor: Reactor, kill_wait: float, batch: bool) -> None:
        self._kernel = kernel
        self._reactor = reactor
        self._kill_wait = kill_wait
        self._batch = batch
        self._came = False

    def __call__(self, number: int, *_: object) -> None:
        by_batch = self._batch and number != signal.SIGINT
        if self._came and not by_batch:
            self._reactor.stop()
        self._came = True
        left = math.inf if number == signal.SIGINT else self._kill_wait
        self._kernel.drain(f"it was told to stop ({signal.Signals(number).name})", left)
        self._reactor.wake()

    def wait(self) -> None:
        """Wait for SIGTERM, in a thread: only there the system tells who has sent it. A body may not end its kernel."""
        while True:
            found = signal.sigwaitinfo([signal.SIGTERM])
            process = self._kernel.process_above(found.si_pid)
            if process is None:
                self(signal.SIGTERM)
                continue
            say(f"goes on: SIGTERM came from process {found.si_pid}, which a unit has started", "warning")
            self._reactor.in_thread(partial(self._kernel.end_process, process, TOLD_TO_STOP))

    def hear_input(self, ready: int) -> None:
        """Standard input has something: the end, when what has started this kernel is gone or lets it go."""
        if not os.read(0, 1 << 12):
            self._reactor.ignore(0)
            self._kernel.drain("the command that has started it lets it go")


class Teller:
    """A part of the kernel's reactor that says when the broker is found, and when it is missed, and that it drains."""

    def __init__(
        self, kernel: KernelLoop, address: str, refusal: Callable[[], str], systemd: Supervision
    ) -> None:
        self._systemd = systemd
        self._state = kernel.machine.state
        self._presence = kernel.presence
        self._drains = False
        self._address = address
        #: why the broker does not let us in, if that is known
        self._refusal = refusal
        self._connected = False
        #: when it is missed; None: that was said, or there is nothing to miss
        self._missed_at: float | None = time.monotonic() + AWAY_NOTICE_SECONDS

    def waiting(self) -> bool:
        changed = self._connected is not (self._presence.state is Contact.LIVE)
        return changed or self._drains is not (self._state.shutdown is not None)

    def turn(self, now: float) -> None:
        shutdown = self._state.shutdown
        if shutdown is not None and not self._drains:
            self._drains = True
            busy = (
                f": what it runs may go on for {shutdown.until - now:.0f} s" if self._state.unanswered else ""
            )
            say(f"leaves, because {shutdown.reason}{busy}")
            self._systemd.say("STOPPING=1")
        connected = self._presence.state is Contact.LIVE
        if connected and not self._connected:
            say("connected")
            self._systemd.say("STATUS=connected")
            self._missed_at = None
        elif self._connected and not connected:
            self._missed_at = now + AWAY_NOTICE_SECONDS
        elif self._missed_at is not None and now >= self._missed_at:
            why = self._refusal() or f"no broker answers at {self._address}"
            say(f"{why}; it is called until one does", "warning")
            self._systemd.say(f"STATUS={why}")
            self._missed_at = None
        self._connected = connected

    def deadline(self) -> float | None:
        return self._missed_at

    def close(self) -> None:
        """Nothing is held."""
