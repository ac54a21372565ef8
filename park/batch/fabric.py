"""A private fabric from a script: kernels in an allocation that ends with the ``with``::

with park.batch.torque(nodes=2, ppn=8, walltime="4h") as service:
    print(service.start(simulate, range(1000)))

The jobs stand in the table of the broker that the user has named, or in that of a broker beside the script.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from park.batch.ask import make_ask, with_command
from park.batch.left_over import LOCK, remember
from park.batch.own_broker import OwnBroker
from park.batch.private import unreachable
from park.batch.profiles import ENDED, QUEUED, profile, script_of
from park.batch.shared_broker import shared_broker
from park.batch.systems import Allocation, cancel, find, look, submit
from park.config import default_home, said_broker
from park.core.connect import connect
from park.core.server import ServerProxy
from park.errors import BatchError
from park.util.file_lock import locked
from park.util.stdio import tell

#: Seconds between two looks at the batch system, until the allocation runs.
ALLOCATION_POLL_SECONDS = 15.0
#: Seconds without the broker after which kernels leave their allocation: the script has been killed.
BROKER_AWAY_SECONDS = 60
#: All addresses of this machine.
ANY = "0.0.0.0"


class BatchFabric:
    """A fabric for one script. Its service is the default one inside of its ``with``, and its jobs end with it.

    *nodes* with *ppn* processors each for *walltime*, in seconds or as "4h" or "4:00:00"; *queue* and *account* where the
    site needs them; *lines*: more lines of the script's head. Entering it raises BatchError, in the batch system's words.

    *broker*: the broker that deals the jobs, as `park.connect` takes it; by default that of $PARK_BROKER or a park.toml.
    In its table a private job stands for the allocation. "", or where none is named that the nodes reach: a broker beside
    the script. *host* is for that one: the address of this machine that the nodes reach (by default any of its addresses,
    under its host name).

    Jobs wait until the allocation begins; a line on stderr says how long it may take.
    """

    def __init__(
        self,
        system: str,
        nodes: int = 1,
        ppn: int = 1,
        walltime: float | str = "1h",
        queue: str = "",
        account: str = "",
        lines: tuple[str, ...] = (),
        host: str | None = None,
        broker: str | os.PathLike[str] | None = None,
    ) -> None:
        self._broker = None if broker is None else os.fspath(broker)
        self._profile = profile(system)
        self._ask = make_ask(nodes, ppn, walltime, queue, account, lines)
        here = "" if self._profile.name == "local" else ANY
        self._host = here if host is None else host
        self._stack = ExitStack()
        #: the batch system's name for the allocation; "": there is none
        self.id = ""

    def __repr__(self) -> str:
        return f"<BatchFabric {self._profile.name} {self.id or 'not begun'}>"

    def __enter__(self) -> ServerProxy:
        broker = self._shared()
        if not broker:
            return self._beside_a_broker()
        with ExitStack() as stack:
            given = shared_broker(self._profile.name, self._ask, broker)
            service, self.id = stack.enter_context(given)
            stack.enter_context(service)
            self._stack = stack.pop_all()
        return service

    def _shared(self) -> str:
        """The broker elsewhere that deals the jobs; "": a broker beside the script does.

        Raises NoBroker, or Refused where the nodes have no key for it.
        """
        named, source = said_broker() if self._broker is None else (self._broker, "broker=")
        if not (named and source) or not (words := unreachable(self._profile.name, named)):
            return named if source else ""
        tell(
            f"park: {words}"
            + ("; a broker beside the script deals its jobs" if self._broker is None else ""),
            "warning",
        )
        return named if self._broker else ""

    def _beside_a_broker(self) -> ServerProxy:
        """Enter it with a broker that ends with the script."""
        with ExitStack() as stack:
            scratch = Path(tempfile.mkdtemp(prefix="park-"))
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            above = default_home() / "allocations"
            above.mkdir(mode=0o700, parents=True, exist_ok=True)
            shared = Path(tempfile.mkdtemp(prefix="script-", dir=above))
            stack.callback(shutil.rmtree, shared, ignore_errors=True)
            stack.enter_context(locked(shared / LOCK))
            broker = stack.enter_context(OwnBroker(scratch / "home", shared / "broker.log", self._host))
            service = connect(broker.connection)
            stack.callback(service.close)
            words = [sys.executable, "-m", "park.cli.kernel", "--nodes", "--broker", broker.address]
            if self._host:
                words += ["--key", str(broker.new_key(shared / "kernel.key"))]
            command = f"exec {shlex.join([*words, '--away-timeout', str(BROKER_AWAY_SECONDS)])}"
            script = script_of(self._profile, with_command(self._ask, command, "park"))
            self.id = submit(self._profile, script, shared, "park")
            remember(shared, self._profile.name, self.id)
            stack.callback(self._give_back)
            over = threading.Event()
            stack.callback(over.set)
            threading.Thread(target=self._tell, args=(over,), name="park-allocation", daemon=True).start()
            stack.enter_context(service)
            self._stack = stack.pop_all()
        return service

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _give_back(self) -> None:
        try:
            cancel(self._profile, self.id)
        except BatchError as error:
            tell(f"park: allocation {self.id} of {self._profile.name} was not cancelled: {error}", "warning")
        self.id = ""

    def _tell(self, over: threading.Event) -> None:
        """Say how the allocation stands, as long as it does not run, and when it has ended."""
        said = ""
        while not over.wait(ALLOCATION_POLL_SECONDS):
            try:
                seen = find(look(self._profile), self.id)
            except BatchError:
                continue
            text = standing(seen)
            if text != said and not over.is_set():
                said = text
                if text:
                    tell(f"park: allocation {self.id} of {self._profile.name} {text}", "warning")
            if seen is None or seen.state == ENDED:
                return


def standing(seen: Allocation | None) -> str:
    """The standing of an allocation that does not run, in words; "": it runs."""
    if seen is None or seen.state == ENDED:
        return "has ended: what still waits runs nowhere"
    if seen.state == QUEUED:
        place = f", place {seen.place}" if seen.place else ""
        return f"is queued{place}" + (f": {seen.reason}" if seen.reason else "")
    return ""
