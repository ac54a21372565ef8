"""``park-kernel``: lends the CPUs of this node to a broker's jobs."""

from __future__ import annotations

import signal
import sys

import click

from park.cli.common import broker_option, in_words


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

    with in_words():
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
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: reactor.stop())
        print(
            f"park-kernel: {count} slots for the broker at {endpoints['kernels']}",
            file=sys.stderr,
            flush=True,
        )
        reactor.run()


if __name__ == "__main__":
    main()
