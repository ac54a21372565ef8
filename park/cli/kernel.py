"""``park-kernel``: lends the CPUs of this node to a broker's jobs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from park.cli.common import HELP, Service, broker_option, in_words, log_option, seconds
from park.errors import InvalidRequest
from park.kernel.term import DRAIN, Term
from park.wire.contact import Contact

if TYPE_CHECKING:
    from park.kernel.loop import KernelLoop
    from park.util.reactor import Reactor

#: Seconds without a broker after which the kernel says so.
PATIENCE = 5.0


@click.command("park-kernel", cls=Service, context_settings=HELP)
@broker_option
@click.option(
    "--slots",
    default="auto",
    metavar="auto|N",
    help="Units to run at once (default: the CPUs that this process may use).",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="The kernel's key over tcp (default: the kernel's key in ~/.config/park/keys/HOST_PORT).",
)
@click.option("--owner", metavar="NAME", help="Serve this owner's jobs first.")
@click.option("--only-own", is_flag=True, help="Serve no others' jobs (without --owner: your own only).")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="TEXT",
    help="What this kernel is or has, such as gpu, for jobs that ask for it. May be given several times.",
)
@click.option(
    "--time-limit",
    callback=seconds,
    metavar="TIME",
    help="Leave before so much time has passed, such as 3h55m: the wall time of a batch job.",
)
@click.option(
    "--idle-timeout", callback=seconds, metavar="TIME", help="Leave after so long without work, such as 5m."
)
@click.option(
    "--grace",
    callback=seconds,
    default=f"{DRAIN:g}s",
    show_default=True,
    metavar="TIME",
    help="When it leaves, what it runs may go on for so long; the rest is handed back.",
)
@log_option
@click.version_option(package_name="park-fit")
def main(
    broker: str | None,
    slots: str,
    key: Path | None,
    owner: str | None,
    only_own: bool,
    labels: tuple[str, ...],
    time_limit: float | None,
    idle_timeout: float | None,
    grace: float,
    log_file: Path | None,
) -> None:
    """Run units for a broker until it is stopped (Ctrl-C, SIGTERM or `park kernels drain`), or its time is over.

    It announces the node's memory and installed packages. When it leaves it takes no new work, lets what it runs end
    if that is soon, and hands the rest back, to be run elsewhere; a second signal ends it at once.

    Its options may stand in park.toml, in /etc/xdg/park and then in ~/.config/park, under [park-kernel].

    The kernel runs whatever code the broker's clients send, as you: connect it only to a broker you trust.
    """
    from park.core.server import usertag
    from park.kernel.descriptors import fit
    from park.kernel.loop import KernelLoop
    from park.kernel.node import this_node
    from park.local import check_slots, default_slots
    from park.model import owner_name, texts
    from park.service import FIRST_HELLO, key_for, refusal
    from park.util.addresses import find_broker
    from park.util.keys import KERNEL, POOL
    from park.util.outlet import keep_numbers, log_to
    from park.util.reactor import Reactor
    from park.util.sockets import Dealer

    with in_words("park-kernel"):
        log_to(log_file)
        count = (
            default_slots()
            if slots == "auto"
            else check_slots(int(slots) if slots.isdigit() else slots, "--slots")
        )
        count, cut = fit(count)
        if cut:
            say(cut)
        labels = texts(labels, "label")
        if owner is not None:
            texts(owner, "owner")
            owner_name(owner)
        place = find_broker(broker)
        shown = key_for(place, (KERNEL, POOL), file=key)
        if only_own and owner is None:
            owner = usertag() if shown is None else shown.name
        term = Term(time.monotonic(), time_limit, idle_timeout, grace)
        if time_limit is not None and time_limit <= term.needs:
            raise InvalidRequest(
                f"--time-limit {time_limit:g} s leaves no time for work: leaving may take {term.needs:g} s, of which "
                f"--grace is {grace:g} s"
            )
        keep_numbers()
        reactor = Reactor()
        line = Dealer(place.kernels, shown)
        line.wait(FIRST_HELLO)
        node = this_node(labels, owner or "", only_own)
        kernel = KernelLoop(reactor, line, count, usertag(), node, term=term, on_left=reactor.stop)
        reactor.listen(line.fileno(), line.stir)
        reactor.add(kernel)
        reactor.add(Teller(kernel, place.kernels, lambda: refusal(place.kernels, shown, line.trouble())))
        stops = Stops(kernel, reactor)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stops)
        whose = f", for {owner}'s jobs {'only' if only_own else 'first'}" if owner else ""
        say(f"{count} slot{'s'[: count != 1]} for the broker at {place.kernels}{whose}")
        reactor.run()
        say(f"has left: {kernel.life.leave}")


def say(text: str, level: str = "info") -> None:
    """A line for whoever looks at the kernel's terminal or log."""
    from park.util.outlet import tell

    tell(f"park-kernel: {text}", level)


class Stops:
    """The handler of the signals that end the kernel: the first in good order, the second at once."""

    def __init__(self, kernel: KernelLoop, reactor: Reactor) -> None:
        self._kernel = kernel
        self._reactor = reactor
        self._came = False

    def __call__(self, number: int, *_: object) -> None:
        if self._came:
            self._reactor.stop()
        self._came = True
        self._kernel.drain(f"it was told to stop ({signal.Signals(number).name})")
        self._reactor.wake()


class Teller:
    """A part of the kernel's reactor that says when the broker is found, and when it is missed, and that it drains."""

    def __init__(self, kernel: KernelLoop, address: str, refusal: Callable[[], str]) -> None:
        self._life = kernel.life
        self._presence = kernel.presence
        self._drains = False
        self._address = address
        #: why the broker does not let us in, if that is known
        self._refusal = refusal
        self._connected = False
        #: when it is missed; None: that was said, or there is nothing to miss
        self._missed_at: float | None = time.monotonic() + PATIENCE

    def waiting(self) -> bool:
        changed = self._connected is not (self._presence.state is Contact.LIVE)
        return changed or self._drains is not (self._life.leave is not None)

    def turn(self, now: float) -> None:
        leave = self._life.leave
        if leave is not None and not self._drains:
            self._drains = True
            busy = f": what it runs may go on for {leave.until - now:.0f} s" if self._life.unanswered else ""
            say(f"leaves, because {leave.reason}{busy}")
        connected = self._presence.state is Contact.LIVE
        if connected and not self._connected:
            say("connected")
            self._missed_at = None
        elif self._connected and not connected:
            self._missed_at = now + PATIENCE
        elif self._missed_at is not None and now >= self._missed_at:
            why = self._refusal() or f"no broker answers at {self._address}"
            say(f"{why}; it is called until one does", "warning")
            self._missed_at = None
        self._connected = connected

    def deadline(self) -> float | None:
        return self._missed_at

    def close(self) -> None:
        """Nothing is held."""


if __name__ == "__main__":
    main()
