"""The GPUs of a kernel, and the part of each that is given out.

A unit gets whole devices, or a part of one. Parts are counted in thousandths, so that their sums are exact and no
device is given out more than once.
"""

from __future__ import annotations

from collections.abc import Iterable

from park.model import WHOLE_GPU, gpu_part


class Devices:
    """The GPUs of one kernel, and their parts that units hold. Devices are numbered from 0."""

    __slots__ = ("given",)

    def __init__(self, count: int) -> None:
        #: the parts of each device that are given out
        self.given = [0] * count

    @property
    def busy(self) -> float:
        """The devices that are given out, all together."""
        return sum(self.given) / WHOLE_GPU

    def choose(self, gpus: float) -> tuple[int, ...] | None:
        """The devices for a unit that needs *gpus*; None: too few are free. A part comes from the fullest device that
        still has it.
        """
        size = gpu_part(gpus)
        fitting = [n for n, given in enumerate(self.given) if given + size <= WHOLE_GPU]
        if gpus < 1:
            fitting.sort(key=lambda n: -self.given[n])
        count = max(1, int(gpus))
        return tuple(fitting[:count]) if len(fitting) >= count else None

    def has_room(self, devices: Iterable[int], gpus: float) -> bool:
        """Whether these devices can take such a unit now."""
        size = gpu_part(gpus)
        return all(n < len(self.given) and self.given[n] + size <= WHOLE_GPU for n in devices)

    def take(self, devices: Iterable[int], gpus: float) -> None:
        """Give these devices to a unit."""
        for n in devices:
            self.given[n] += gpu_part(gpus)

    def give_back(self, devices: Iterable[int], gpus: float) -> None:
        """Take these devices back from a unit."""
        for n in devices:
            self.given[n] -= gpu_part(gpus)
