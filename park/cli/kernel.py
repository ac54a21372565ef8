"""``park-kernel``: lends the CPUs of this node to a broker's jobs."""

from __future__ import annotations

import signal
import sys
import time

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
@click.version_option(package_name="park-fit")
def main(broker: str | None, slots: str) -> None:
    """Run units for a broker until it is stopped (Ctrl-C or SIGTERM).

    The kernel runs whatever code the broker's clients send, as you: connect it only to a broker you trust.
    """
    from park.core.server import usertag
    from park.kernel.loop import KernelLoop
    from park.local import check_slots, default_slots
    from park.service import read_connection
    from park.util.reactor import Reactor
    from park.util.sockets import Dealer

    with in_words("park-kernel"):
        count = (
            default_slots()
            if slots == "auto"
            else check_slots(int(slots) if slots.isdigit() else slots, "--slots")
        )
        endpoints = read_connection(broker)
        reactor = Reactor()
        line = Dealer(endpoints["kernels"])
        kernel = KernelLoop(reactor, line, count, usertag())
        reactor.listen(line.fileno())
        reactor.add(kernel)
        reactor.add(Teller(kernel.presence, endpoints["kernels"]))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: reactor.stop())
        say(f"{count} slot{'s'[: count != 1]} for the broker at {endpoints['kernels']}")
        reactor.run()


def say(text: str) -> None:
    """A line for whoever looks at the kernel's terminal or log."""
    print(f"park-kernel: {text}", file=sys.stderr, flush=True)


class Teller:
    """A part of the kernel's reactor that says when the broker is found, and when it is missed."""

    def __init__(self, presence: Presence, address: str) -> None:
        self._presence = presence
        self._address = address
        self._connected = False
        #: when it is missed; None: that was said, or there is nothing to miss
        self._missed_at: float | None = time.monotonic() + PATIENCE

    def turn(self, now: float) -> bool:
        connected = self._presence.state is Contact.LIVE
        if connected and not self._connected:
            say("connected")
            self._missed_at = None
        elif self._connected and not connected:
            self._missed_at = now + PATIENCE
        elif self._missed_at is not None and now >= self._missed_at:
            say(f"no broker answers at {self._address}; it is called until one does")
            self._missed_at = None
        self._connected = connected
        return False

    def deadline(self) -> float | None:
        return self._missed_at

    def close(self) -> None:
        """Nothing is held."""


if __name__ == "__main__":
    main()
