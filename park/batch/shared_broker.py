"""An allocation for one script at a broker that others use, too. The script's jobs stand in the table of that broker.

A private job of that broker stands for the allocation. It has no units. It is there until the script has left its
``with``, and no longer than the script. Jobs of the script share its kernels, and end with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from park.batch.private import allocate
from park.batch.profiles import Ask
from park.client import requests
from park.core.connect import connect
from park.core.server import ServerProxy
from park.errors import ParkError
from park.job import Job, Jobs
from park.model import KernelRecord, Request

#: Seconds between two signs of life for a broker that was restarted: it fails the jobs of a script that is gone.
SIGN_OF_LIFE_SECONDS = 15.0


class AllocationService(ServerProxy):
    """A broker, of which the kernels of the private job *allocation* run all requests. Its kernels are those."""

    def __init__(self, over: ServerProxy, allocation: int) -> None:
        super().__init__(over)
        self._allocation = allocation

    def _base_private(self) -> int:
        return self._allocation

    def jobs(
        self, filter: Any = None, owner: str | None = None, since: datetime | float | None = None
    ) -> list[Job]:
        """The jobs, as of any service, but without that of the allocation: it lasts as long as the script's ``with``."""
        return Jobs(job for job in super().jobs(filter, owner, since) if job.id != self._allocation)

    def kernels(self) -> list[KernelRecord]:
        """The kernels of the allocation that are connected."""
        return [kernel for kernel in super().kernels() if kernel.job == self._allocation]


def allocation(_: None) -> None:
    """The body of the job that stands for an allocation. It has no inputs, so it never runs."""


@contextmanager
def shared_broker(system: str, ask: Ask, broker: str) -> Iterator[tuple[AllocationService, str]]:
    """The service of an allocation at *broker*, and the batch system's name for the allocation.

    Raises BatchError, in the batch system's words; NoBroker; Refused where the nodes have no key.
    """
    service = connect(broker)
    try:
        request = Request(allocation, (), name=f"{system} nodes={ask.nodes}:ppn={ask.ppn}", private=True)
        job = requests.hold_open(service._link, request, service._base_tags())
        over = threading.Event()
        try:
            id_ = allocate(service, job, system, ask, broker)
            threading.Thread(
                target=_stay, args=(service, job, over), name="park-allocation", daemon=True
            ).start()
            yield AllocationService(service, job), id_
        except BaseException:
            with suppress(ParkError):  # it may have ended
                service.abort(job)
            raise
        finally:
            over.set()
        requests.close(service._link, job)
    finally:
        service.close()


def _stay(service: ServerProxy, job: int, over: threading.Event) -> None:
    while not over.wait(SIGN_OF_LIFE_SECONDS):
        with suppress(ParkError):
            requests.keep_open(service._link, job)
