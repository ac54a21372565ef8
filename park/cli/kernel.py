"""``park-kernel``: lends the CPUs of this node to a broker's jobs."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from park.cli.common import broker_option, in_words
from park.wire.contact import Contact, Presence

#: Seconds without a broker after which the kernel says so.
PATIENCE = 5.0


@click.command()
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
@click.version_option(package_name="park-fit")
def main(
    broker: str | None,
    slots: str,
    key: Path | None,
    owner: str | None,
    only_own: bool,
    labels: tuple[str, ...],
) -> None:
    """Run units for a broker until it is stopped (Ctrl-C or SIGTERM).

    It announces the node's memory and installed packages.

    The kernel runs whatever code the broker's clients send, as you: connect it only to a broker you trust.
    """
    from park.core.server import usertag
    from park.kernel.loop import KernelLoop
    from park.kernel.node import this_node
    from park.local import check_slots, default_slots
    from park.model import texts
    from park.service import FIRST_HELLO, key_for, refusal
    from park.util.addresses import find_broker
    from park.util.keys import KERNEL, POOL
    from park.util.reactor import Reactor
    from park.util.sockets import Dealer

    with in_words("park-kernel"):
        count = (
            default_slots()
            if slots == "auto"
            else check_slots(int(slots) if slots.isdigit() else slots, "--slots")
        )
        labels = texts(labels, "label")
        if owner is not None:
            texts(owner, "owner")
        place = find_broker(broker)
        shown = key_for(place, (KERNEL, POOL), file=key)
        if only_own and owner is None:
            owner = usertag() if shown is None else shown.name
        reactor = Reactor()
        line = Dealer(place.kernels, shown)
        line.wait(FIRST_HELLO)
        kernel = KernelLoop(reactor, line, count, usertag(), this_node(labels, owner or "", only_own))
        reactor.listen(line.fileno(), line.stir)
        reactor.add(kernel)
        reactor.add(
            Teller(kernel.presence, place.kernels, lambda: refusal(place.kernels, shown, line.trouble()))
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: reactor.stop())
        whose = f", for {owner}'s jobs {'only' if only_own else 'first'}" if owner else ""
        say(f"{count} slot{'s'[: count != 1]} for the broker at {place.kernels}{whose}")
        reactor.run()


def say(text: str) -> None:
    """A line for whoever looks at the kernel's terminal or log."""
    print(f"park-kernel: {text}", file=sys.stderr, flush=True)


class Teller:
    """A part of the kernel's reactor that says when the broker is found, and when it is missed."""

    def __init__(self, presence: Presence, address: str, refusal: Callable[[], str]) -> None:
        self._presence = presence
        self._address = address
        #: why the broker does not let us in, if that is known
        self._refusal = refusal
        self._connected = False
        #: when it is missed; None: that was said, or there is nothing to miss
        self._missed_at: float | None = time.monotonic() + PATIENCE

    def waiting(self) -> bool:
        return self._connected is not (self._presence.state is Contact.LIVE)

    def turn(self, now: float) -> None:
        connected = self._presence.state is Contact.LIVE
        if connected and not self._connected:
            say("connected")
            self._missed_at = None
        elif self._connected and not connected:
            self._missed_at = now + PATIENCE
        elif self._missed_at is not None and now >= self._missed_at:
            why = self._refusal() or f"no broker answers at {self._address}"
            say(f"{why}; it is called until one does")
            self._missed_at = None
        self._connected = connected

    def deadline(self) -> float | None:
        return self._missed_at

    def close(self) -> None:
        """Nothing is held."""


if __name__ == "__main__":
    main()
