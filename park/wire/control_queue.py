"""Controls that wait for delivery: in a kernel for its slot processes, in a slot process for its bodies.

Controls arrive in order, and some arrive twice after contact was lost. A queue keeps them until the kernel or process
releases their job, because a body may run again in it, or another process may begin to run the job. A checkpoint makes
the controls superfluous whose effects it contains.
"""

from __future__ import annotations

from park.wire.pack import Buffer


class ControlQueue:
    """Pickled controls of each job, by the sequence numbers that the broker gives them."""

    def __init__(self) -> None:
        #: job -> sequence number -> control; the numbers of a job increase
        self._jobs: dict[int, dict[int, Buffer]] = {}

    def keep(self, job: int, seq: int, data: Buffer) -> None:
        """Add a control, unless it or a later one is there already."""
        queue = self._jobs.setdefault(job, {})
        if not queue or seq > next(reversed(queue)):
            queue[seq] = data

    def after(self, job: int, seq: int) -> list[tuple[int, Buffer]]:
        """The numbers and data of the job's controls that follow number *seq*, in order."""
        found: list[tuple[int, Buffer]] = []
        queue = self._jobs.get(job, {})
        for number in reversed(queue):
            if number <= seq:
                break
            found.append((number, queue[number]))
        return found[::-1]

    def drop(self, job: int, served: int) -> None:
        """Drop the controls up to number *served*, whose effects a checkpoint contains."""
        queue = self._jobs.get(job, {})
        while queue and (first := next(iter(queue))) <= served:
            del queue[first]

    def forget(self, job: int) -> None:
        """Drop the controls of a job that has ended."""
        self._jobs.pop(job, None)

    def clear(self) -> None:
        """Drop all controls: the broker sends them again."""
        self._jobs.clear()
