"""Controls where they are waited for: in a kernel for its processes, in a process for its bodies.

They come in order, perhaps a second time after contact was lost, and are kept until their job is released, because a body
may run again here, or another process may begin to run the job. Those that a checkpoint has are needed no more.
"""

from __future__ import annotations

from park.wire.pack import Buffer


class Controls:
    """By job, and by the numbers that the broker gives them."""

    def __init__(self) -> None:
        self._jobs: dict[int, dict[int, Buffer]] = {}

    def keep(self, job: int, seq: int, data: Buffer) -> None:
        """One has come; one that is here, or came before those that are, is left out."""
        here = self._jobs.setdefault(job, {})
        if not here or seq > next(reversed(here)):
            here[seq] = data

    def after(self, job: int, seq: int) -> list[tuple[int, Buffer]]:
        """Those of the job that come after this one."""
        found: list[tuple[int, Buffer]] = []
        here = self._jobs.get(job, {})
        for number in reversed(here):
            if number <= seq:
                break
            found.append((number, here[number]))
        return found[::-1]

    def drop(self, job: int, served: int) -> None:
        """A checkpoint has what those up to this one have led to."""
        here = self._jobs.get(job, {})
        while here and (first := next(iter(here))) <= served:
            del here[first]

    def forget(self, job: int) -> None:
        """The job has ended."""
        self._jobs.pop(job, None)

    def clear(self) -> None:
        """All of them will come again."""
        self._jobs.clear()
