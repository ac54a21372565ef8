"""Controls: what a job's owner says to its body, kept and given to every process that runs the job's own units.

A control is on disk before it is acknowledged, and before a kernel gets it. A kernel that holds a unit of the job's own
gets all of them in order, before that unit and as they come; over a new connection, and from a new life of the broker, all
again, and what it has had it knows by their numbers. A checkpoint of a job that runs once says which of them its state has:
these are needed no more.
"""

from __future__ import annotations

from park.core.charging import Charging
from park.core.controls import MOST, MOST_BYTES, MOST_OF_OWNER, Controls, record
from park.core.jobs import Job
from park.core.limits import check_room
from park.core.outcome import Ref, Write
from park.core.roster import Kernel
from park.errors import LimitReached
from park.wire import messages


class Controlling(Charging):
    """The floor above `Charging`."""

    def _keep_control(self, job: Job, key: bytes, payload: bytes | memoryview) -> None:
        """One more control; nothing where it is known. Raises LimitReached, or Refused on a full disk."""
        size = len(payload)
        controls = job.controls if job.controls is not None else Controls()
        if key in controls:
            return
        if len(controls.kept) >= MOST or controls.bytes + size > MOST_BYTES:
            raise LimitReached(
                f"job {job.number} keeps {len(controls.kept):,} controls of {controls.bytes:,} bytes, which it would need "
                f"if it ran again, and may keep {MOST:,} of {MOST_BYTES:,} bytes: it takes more when it has made a "
                "checkpoint after them"
            )
        tally = self.list.tallies.of(job.owner)
        if tally.controls >= MOST_OF_OWNER:
            raise LimitReached(
                f"the broker keeps {tally.controls:,} controls for all jobs of {job.owner}, and no more: wait until some "
                "of these have ended"
            )
        if self.limits is not None:
            check_room(job.owner, self.limits.of(job.owner), tally, 0, 0, size)
        self.room.demand(size)
        seq = controls.add(key, size, self._turn)
        self.list.grow(job, size)
        tally.controls += 1
        self._out.writes.append(Write("control", record(job.number, seq, key), payload))
        if job.controls is None:
            job.controls = controls
            held = (self.attempts[number] for number in job.attempts)
            listeners = {a.kernel.number: a.kernel for a in held if a.map.root}
        else:
            listeners = {number: job.kernels[number] for number in controls.told}
        self.touched_jobs.add(job.number)
        for kernel in listeners.values():
            self._give_controls(job, kernel)

    def _give_controls(self, job: Job, kernel: Kernel) -> None:
        """The kernel holds, or is about to get, a unit of the job's own: give it what it has not got."""
        controls = job.controls
        if controls is None:
            return
        for seq, kept in controls.after(controls.told.get(kernel.number, 0)):
            # not before it is on disk, nor before the kernel is welcome; what came later is not on disk earlier
            at_once = kept.turn <= self._saved and kernel.joined <= self._saved
            control = messages.Control(job.number, seq=seq)
            payload = Ref("control", record(job.number, seq, kept.key))
            (self._send if at_once else self._answer)(kernel.peer, control, payload)
        controls.told[kernel.number] = controls.last

    def _give_controls_again(self, kernel: Kernel) -> None:
        """What was on its way to the kernel is lost."""
        for number in sorted(kernel.jobs):
            job = self.list.jobs[number]
            if job.controls is not None and job.controls.told.pop(kernel.number, None) is not None:
                self._give_controls(job, kernel)

    def _serve_controls(self, job: Job, served: int) -> None:
        """A checkpoint of the job's only unit has what the controls up to this one have led to."""
        controls = job.controls
        if controls is None or served <= controls.served:
            return
        count, size = len(controls.kept), controls.bytes
        for seq, key, gone in controls.serve(served, self._turn):
            self._out.writes.append(Write("control", record(job.number, seq, key), None if gone else b""))
        self.list.grow(job, controls.bytes - size)
        self.list.tallies.of(job.owner).controls += len(controls.kept) - count
        self.list.store(job, self._out)

    def _blame_control(self, job: Job, seq: int) -> bool:
        """Something went wrong with it. Whether this is the first process that says so."""
        kept = job.controls.kept.get(seq) if job.controls is not None else None
        first = kept is None or not kept.blamed  # of one that a checkpoint has, one process alone knows
        if kept is not None:
            kept.blamed = True
        return first

    def _forget_controls(self, job: Job) -> None:
        """The job ends: nobody will need them."""
        if job.controls is not None:
            self._out.writes += [Write("control", key, None) for key in job.controls.keys(job.number)]
            self.list.grow(job, -job.controls.bytes)
            self.list.tallies.of(job.owner).controls -= len(job.controls.kept)
            job.controls = None
