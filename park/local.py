"""`local_service`: the whole fabric inside this process, with no set-up.

One thread is link, broker and supervisor; the slot processes are its children. It starts on first use. Without a home
its jobs lie in memory. Ended jobs stay there with inputs and results up to `KEPT_BYTES` together; beyond that the
oldest ones are deleted.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from park.client.link import Link
from park.client.pending import Reply
from park.core.server import ServerProxy
from park.errors import InvalidRequest, ParkError, ServiceClosed, UnknownJob
from park.identity import usertag
from park.kernel.loop import KernelLoop
from park.kernel.node.file_limit import fit_slots
from park.kernel.node.gpus import gpus_of
from park.kernel.node.slot_count import check_slots, default_slots
from park.kernel.node.this_node import this_node
from park.net.inproc import InprocRouter
from park.net.reactor import Reactor, SignalsHeld
from park.util.stdio import keep_numbers, tell
from park.wire import messages
from park.wire.codec import MAX_HEAD_BYTES
from park.wire.messages import MAX_ITEMS

if TYPE_CHECKING:  # the broker's modules load while the slot processes start
    from park.broker.manager import JobManager
    from park.service import ServiceManager

#: Bytes of ended jobs that stay in memory.
KEPT_BYTES = 1 << 30


class LocalService(ServerProxy):
    """The service of this process. There is one: `park.local_service`."""

    def __init__(self) -> None:
        self._opened: Link | None = None
        self._lock = threading.Lock()
        self._slots: int | None = None
        self._home: Path | None = None
        self._manager: ServiceManager | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        if self._opened is None:
            return "<LocalService, not started>"
        return f"<LocalService {self._manager!r}>"

    def configure(self, slots: int | None = None, home: str | os.PathLike[str] | None = None) -> None:
        """Before the first use: the number of slots (default: $PARK_SLOTS, else the CPUs that this process may use),
        and a folder that keeps the jobs (default: they end with the process). Raises InvalidRequest.
        """
        if self._opened is not None:
            raise InvalidRequest("the local service runs already: configure it before its first use")
        if slots is not None:
            self._slots = check_slots(slots, "slots")
        if home is not None:
            if not isinstance(home, str | os.PathLike):
                raise InvalidRequest(f"home={home!r} is no folder")
            self._home = Path(home).expanduser()

    @property
    def _broker(self) -> Any:
        raise InvalidRequest("the local service serves this process alone: park.connect(...) finds a broker")

    @property
    def _link(self) -> Link:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    self._open()
        elif os.getpid() != self._pid:
            raise ServiceClosed(
                "this process is a fork of the one that runs the local service: "
                "use park.local_service before the fork, or not at all in its children"
            )
        assert self._opened is not None
        return self._opened

    def _open(self) -> None:
        self._pid = os.getpid()
        keep_numbers()
        slots, cut = fit_slots(self._slots if self._slots is not None else default_slots())
        if cut:
            tell(f"park: {cut}")
        node = this_node(gpus=gpus_of(os.environ.get("PARK_GPUS", "0"), os.environ, "PARK_GPUS="))
        reactor, kernels = Reactor(), InprocRouter()
        # the kernel comes first: its slot processes load their modules while this one loads the broker
        reactor.add(KernelLoop(reactor, kernels.connect(), slots, usertag(), node, _Place()))
        try:
            reactor.start("park")
            with SignalsHeld():  # the broker starts a thread, too
                manager = self._open_broker(reactor, kernels)
            link = Link(
                reactor, manager.clients.connect(), manager.board.connect, usertag(), "the local service"
            )
            reactor.add(link)
            link.wait_live(10.0)
        except BaseException:
            reactor.stop()
            raise
        self._manager, self._opened = manager, link
        atexit.register(self.close)

    def _open_broker(self, reactor: Reactor, kernels: InprocRouter) -> ServiceManager:
        """A broker in *reactor*, for what joins it through *kernels*."""
        from park.broker.entities.archive import RetentionPolicy
        from park.broker.manager import JobManager
        from park.broker.storage.memory import MemoryStore
        from park.service import ServiceManager

        if self._home is None:
            jobs = JobManager(MemoryStore(), outlived=False, keep=RetentionPolicy(size=KEPT_BYTES))
        else:
            from park.broker.storage.store import JobStore

            jobs = JobManager(JobStore(self._home), outlived=False)
        return ServiceManager(jobs, reactor, kernels).open()

    def web(self, port: int = 7280) -> str:
        """The address of a page that shows this service's jobs in a browser; it opens the page once.

        The page begins with the first call, at *port* or, where that is in use, at any that is free, and ends with the
        process. ``park web --local`` prints a new address of it. Needs the extra ``web``; raises InvalidRequest without::

            print(park.local_service.web())
        """
        try:
            from park.web.serving import local_page
        except ModuleNotFoundError as error:
            raise InvalidRequest(
                f"the page needs {error.name}, which is not installed: pip install 'park-fit[web]' brings it"
            ) from None
        return local_page(self, port)

    def close(self) -> None:
        """End the service and abort its jobs. It starts anew when it is used again."""
        with self._lock:
            manager, self._manager = self._manager, None
            self._opened = None
        if manager is None or os.getpid() != self._pid:
            return
        atexit.unregister(self.close)
        left: list[int] = []
        with contextlib.suppress(ServiceClosed):
            left = manager.reactor.call(lambda: _unfinished(manager.manager))
        if left and self._home is None:
            which = f"job {left[0]}" if len(left) == 1 else f"{len(left)} jobs"
            tell(f"park: {which} had not ended and {'was' if len(left) == 1 else 'were'} aborted")
        manager.close()

    def drain(self, kernel: int, grace: float = 0.0) -> None:
        """Raises InvalidRequest: the local service has one kernel only, which ends with the script."""
        raise InvalidRequest("the local service has one kernel only, which ends with the script")

    def _interrupted(self, job: int, reply: Reply, limit: float | None) -> bool:
        """Ctrl-C in `wait`: stop the job and keep its best so far; a second one aborts it."""
        try:
            tell(f"\npark: stopping job {job}, keeping its best so far (Ctrl-C again aborts it)")
            with contextlib.suppress(UnknownJob):  # it has ended in this very moment
                self.stop(job)
            return reply.wait(limit)
        except KeyboardInterrupt:
            with contextlib.suppress(ParkError):
                self.abort(job)
                reply.wait(5.0)
            raise


class _Place:
    """The folders of modules and files of this process, and its arguments: its slot processes have them too."""

    def __init__(self) -> None:
        self._path: list[Any] = []
        self._argv: list[Any] = []
        self._setup = messages.Setup([], None)

    def __call__(self) -> messages.Setup:
        """The folder, the path and the arguments; the same object while nothing has changed."""
        try:
            folder: str | None = os.getcwd()
        except OSError:  # it was removed
            folder = None
        if folder != self._setup.folder or sys.path != self._path or sys.argv != self._argv:
            self._path, self._argv = sys.path.copy(), sys.argv.copy()
            path = [entry for entry in self._path if isinstance(entry, str)]
            self._setup = messages.Setup(path, folder, _few(self._argv))
        return self._setup


def _few(argv: list[Any]) -> list[str]:
    """The words of a command; only the script if they are too many for a message, for example many file names."""
    words = [word for word in argv if isinstance(word, str)]
    return words if len(words) < MAX_ITEMS and sum(map(len, words)) < MAX_HEAD_BYTES // 8 else words[:1]


def _unfinished(manager: JobManager) -> list[int]:
    jobs = manager.dispatcher.state.jobs.values()
    return [j.number for j in jobs if not j.record.state.ended and not j.session]


local_service = LocalService()
