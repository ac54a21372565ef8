"""Kernels that leave on purpose: they are dealt nothing new, and what they hold ends there or comes back.

Somebody may ask for it, or the kernel says by itself that it drains. Drivers that wait on it may go on there, because
they can go on nowhere else, until it hands them back.
"""

from __future__ import annotations

from park.core.attempts import Attempts
from park.core.outcome import Event
from park.core.rights import check_drain
from park.core.roster import Kernel
from park.errors import InvalidRequest, ProtocolError, UnknownKernel
from park.model import Delta
from park.wire import messages

#: Seconds within which a kernel that was asked to leave shall have handed back all that it holds, at most.
MOST_GRACE = 30 * 86400.0


class Leaving(Attempts):
    """The floor above `Attempts`, on one level with `park.core.dealing`."""

    def _drain(self, event: Event, m: messages.Drain) -> None:
        """A client asks a kernel to leave. It is answered when the kernel knows."""
        client = self.roster.clients.get(event.peer)
        if client is None:
            raise ProtocolError("this message is a client's")
        if not 0 <= m.grace <= MOST_GRACE:
            raise InvalidRequest(f"grace={m.grace:g} is not a number of seconds from 0 to {MOST_GRACE:.0f}")
        if m.epoch != self.epoch:
            raise InvalidRequest(
                "the broker was restarted, and has numbered the kernels anew: see `park kernels`"
            )
        kernel = next((k for k in self.roster.kernels.values() if k.number == m.kernel), None)
        if kernel is None:
            raise UnknownKernel(f"no kernel {m.kernel} is connected: `park kernels` shows those that are")
        check_drain(client, kernel)
        self._drains(kernel)
        kernel.grace = m.grace
        kernel.drainers.append((event.peer, m.id))
        self._answer(kernel.peer, messages.Drain(grace=m.grace))  # after its Runs

    def _draining(self, event: Event, m: messages.Draining) -> None:
        """The kernel says that it takes no new work."""
        kernel = self.roster.kernels.get(event.peer)
        if kernel is None:
            raise ProtocolError("this message is a kernel's")
        self._knows(kernel)

    def _knows(self, kernel: Kernel) -> None:
        """The kernel knows that it drains: whoever asked for it is answered."""
        self._drains(kernel)
        kernel.grace = None
        self._confirm(kernel)
        self._answer_drainers(kernel)

    def _answer_drainers(self, kernel: Kernel) -> None:
        for peer, request in kernel.drainers:
            self._answer(peer, messages.Done(request))
        kernel.drainers.clear()

    def _drains(self, kernel: Kernel) -> None:
        """Nothing new is dealt to the kernel any more."""
        if kernel.draining:
            return
        self._unreserve(kernel)
        self.roster.drain(kernel)
        self.vacancies.leave(kernel)
        self._touched[kernel.number] = kernel
        self._out.deltas.append(Delta("kernel", kernel.number, {"draining": True}))
        self._count_slots()
