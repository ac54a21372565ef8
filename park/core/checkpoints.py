"""Checkpoints: the states from which units go on that are run again.

The newest one of each unit of a job is in the store. It is the present attempt's: what comes of an attempt that was lost
is dropped, so it never takes the place of a newer one. It goes when the unit is answered, and with its job.
"""

from __future__ import annotations

from park.core.attempts import Attempts
from park.core.outcome import Event, Ref, Write
from park.core.work import Attempt
from park.errors import ProtocolError
from park.wire import messages


class Checkpoints(Attempts):
    """The floor above `Attempts`, on one level with `park.core.dealing`."""

    def _checkpoint(self, event: Event, m: messages.Checkpoint) -> None:
        attempt = self._keeper(event, m)
        if attempt is None:
            return
        job = self._job(attempt.map.job)
        known, controls = job.checkpoints.get(m.unit), job.controls
        had = controls.served if controls is not None else 0
        if m.served < had:  # it was taken in again, and has heard less than one that ran meanwhile
            return
        if known is None or known < (m.attempt, m.number):
            if not self.room.use(len(event.payload)):
                return  # its kernel keeps it, and tries again with the next
            self._settle_twin(attempt)  # what goes on from its own state runs once at a time
            job.checkpoints[m.unit] = (m.attempt, m.number)
            self._out.writes.append(Write("checkpoint", (job.number, m.unit), event.payload))
            if job.submit.once:  # else each of its units has got them
                self._serve_controls(job, m.served)
            if known is None or known[0] != m.attempt:
                self.list.store(job, self._out)
            self._refresh(job)
        served = min(m.served, controls.served) if controls is not None else 0
        self._answer(event.peer, messages.Checkpointed(m.attempt, m.number, served))

    def _restore(self, event: Event, m: messages.Restore) -> None:
        attempt = self._keeper(event, m)
        if attempt is None:
            return
        job = self._job(attempt.map.job)
        served = job.controls.served if job.controls is not None else 0
        answer = messages.Checkpoint(m.attempt, job.number, m.unit, 0, m.id, served)
        payload = Ref("checkpoint", (job.number, m.unit)) if m.unit in job.checkpoints else b""
        self._answer(event.peer, answer, payload)

    def _keeper(self, event: Event, m: messages.Checkpoint | messages.Restore) -> Attempt | None:
        """The attempt that speaks; None if it was lost, or nobody needs it."""
        attempt = self._held_attempt(event, m.attempt)
        if attempt is None or self._is_void(attempt):
            return None
        if not attempt.map.root or not attempt.span.start <= m.unit < attempt.span.stop:
            raise ProtocolError(f"attempt {m.attempt} keeps no checkpoint of unit {m.unit}")
        return attempt
