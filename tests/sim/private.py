"""A life in which some jobs are private: kernels come for each of them alone, early, late or twice, and are sent away.

Other jobs share the kernels of some, and end with them.
"""

from __future__ import annotations

import random
from typing import Any

from park.model import JobState
from park.wire import messages
from tests.sim.client import Request
from tests.sim.kernel import Kernel
from tests.sim.life import Life
from tests.sim.world import World

#: Kernels that may be there at once, those for all jobs among them.
MOST_KERNELS = 8


class PrivateLife(Life):
    """See the module."""

    def __init__(self, seed: int, world: World | None = None) -> None:
        super().__init__(seed, world)
        self._mine = random.Random(f"private {seed}")
        #: requests for private jobs
        self.wanted: list[Request] = []

    def submit_some(self, name: str, inputs: list[Any] | None, **fields: Any) -> Request:
        private = self._mine.random() < 0.4
        hosts = [number for number in self._hosts() if not self.world.dispatcher.state.jobs[number].ended]
        shares = 0
        if not private and hosts and self._mine.random() < 0.3:
            shares = self._mine.choice(hosts)
        request = super().submit_some(name, inputs, private=private, shares=shares, **fields)
        if private:
            self.wanted.append(request)
        return request

    def _hosts(self) -> list[int]:
        """The private jobs that the broker has in memory."""
        accepted = [r.job for r in self.wanted if r.done and isinstance(r.answer, messages.Accepted)]
        return [number for number in accepted if number in self.world.dispatcher.state.jobs]

    def see_accepted(self) -> None:
        for asked in list(self.asked):
            request = asked[1]
            if request.message.shares and request.done and isinstance(request.answer, messages.Failure):
                host = self.world.job(request.message.shares)
                # the private job ended before the request had come, or another owner has it
                assert host is None or host.ended or host.ending or request.answer.error == "Refused"
                self.asked.remove(asked)
        super().see_accepted()

    def _check_end(self, job: Any, request: Request, *given: Any) -> None:
        host = self.world.job(request.message.shares) if request.message.shares else None
        if request.message.shares and (host is None or host.ended):
            assert job.ended or job.ending, job.record
            if job.state is JobState.ABORTED:
                return
        super()._check_end(job, request, *given)

    def happen(self) -> None:
        super().happen()
        private = [r.job for r in self.wanted if r.done and isinstance(r.answer, messages.Accepted)]
        if private and len(self.world.kernels) < MOST_KERNELS and self._mine.random() < 0.4:
            self.allocate(self._mine.choice(private))
        if private and self._mine.random() < 0.2:
            number = self._mine.choice(private)
            self.client().ask(messages.Change(0, number, allocation=f"is queued, place {number}"))

    def allocate(self, job: int) -> Kernel:
        """A kernel for this job alone, which may be over."""
        kernel = self.world.kernel(self._mine.choice([1, 1, 2]))
        kernel.job, kernel.gpus = job, self._mine.choice([0, 2])
        return kernel

    def end(self, events: int) -> None:
        self._provide()
        super().end(events)
        self.world.until(lambda: not any(kernel.job for kernel in self.world.kernels))

    def _provide(self) -> None:
        """Each second a batch system gives an allocation to the private jobs that have none and have not ended."""
        for number, job in self.world.dispatcher.state.jobs.items():
            if (
                job.needs.job == number
                and not job.ended
                and not any(self._serves(k, number) for k in self.world.kernels)
            ):
                kernel = self.world.kernel(2)
                kernel.job, kernel.gpus = number, 2
        self.world.at(self.world.now + 1.0, self._provide, quiet=True)

    @staticmethod
    def _serves(kernel: Kernel, job: int) -> bool:
        """Whether it can run any unit of the job."""
        state = kernel.machine.state
        return kernel.job == job and state.shutdown is None and (kernel.gpus, state.slots) == (2, 2)
