"""The kernels that have free slots, and the work classes that they serve.

Kernels are grouped by profile, and a decision looks at profiles instead of kernels. A work class of the service clock
is a set of needs with a kind of code, or the number of a kernel on which a driver wants to go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from park.broker.entities.requirements import KernelProfile, Kind, Needs, WorkClass, unmet
from park.broker.entities.roster import Kernel

#: The number of kernels at which a search for prepared processes, or for slots of a wide unit, looks at most.
MAX_CANDIDATES = 64


class FreeSlots:
    """The kernels with free slots. Its user calls `changed` after each change of a kernel's slots."""

    def __init__(self) -> None:
        #: kernels with an unreserved free slot, by profile; the one whose slots were busy longest first
        self.free: dict[KernelProfile, dict[int, Kernel]] = {}
        #: kernels with a free slot that may take no further process
        self.at_driver_limit: dict[int, Kernel] = {}
        #: kernels that keep slots free for a wide unit
        self.reserved: dict[int, Kernel] = {}
        #: the needs that each profile of a connected kernel meets, among those of living jobs
        self._work_classes: dict[KernelProfile, list[WorkClass]] = {}
        self._kernels: Counter[KernelProfile] = Counter()
        #: the one object that all kernels of a profile share, so that a lookup compares identities only
        self._profiles: dict[KernelProfile, KernelProfile] = {}
        self._needs: Counter[Needs] = Counter()
        #: the work classes of each set of needs; one object each, so that a comparison looks at the object alone
        self._shared: dict[Needs, tuple[WorkClass, ...]] = {}

    def join(self, kernel: Kernel) -> None:
        profile = kernel.profile = self._profiles.setdefault(kernel.profile, kernel.profile)
        self._kernels[profile] += 1
        if profile not in self._work_classes:
            self._work_classes[profile] = [
                d for n in self._needs if not unmet(n, profile) for d in self._shared[n]
            ]
        self.changed(kernel)

    def leave(self, kernel: Kernel) -> None:
        profile = kernel.profile
        self._remove(kernel)
        self._kernels[profile] -= 1
        if not self._kernels[profile]:
            del self._kernels[profile], self._work_classes[profile], self._profiles[profile]

    def need(self, needs: Needs) -> tuple[WorkClass, ...]:
        """Count one job more with these needs. Returns the work classes of jobs with such needs."""
        self._needs[needs] += 1
        if self._needs[needs] == 1:
            self._shared[needs] = tuple(WorkClass(needs, kind) for kind in Kind)
            for profile, work_classes in self._work_classes.items():
                if not unmet(needs, profile):
                    work_classes += self._shared[needs]
        return self._shared[needs]

    def need_no_more(self, needs: Needs) -> None:
        self._needs[needs] -= 1
        if not self._needs[needs]:
            del self._needs[needs], self._shared[needs]
            for work_classes in self._work_classes.values():
                work_classes[:] = [d for d in work_classes if d.needs != needs]

    def work_classes(self, profile: KernelProfile) -> list[WorkClass]:
        """The work classes that a kernel of this profile serves."""
        return self._work_classes[profile]

    @property
    def profiles(self) -> Iterable[KernelProfile]:
        """The profiles of all connected kernels."""
        return self._kernels.keys()

    def changed(self, kernel: Kernel) -> None:
        """List the kernel by its free slots; one that takes no new work is in no list."""
        if kernel.closed:
            return
        number = kernel.number
        group = self.free.get(kernel.profile)
        if kernel.free > 0 and not kernel.reserved:
            if kernel.full_of_drivers:
                self.at_driver_limit[number] = kernel
            else:
                self.at_driver_limit.pop(number, None)
                if group is None:
                    self.free[kernel.profile] = {number: kernel}
                else:
                    group[number] = kernel
                return
        else:
            self.at_driver_limit.pop(number, None)
        if group is not None and group.pop(number, None) is not None and not group:
            del self.free[kernel.profile]

    def reserve(self, kernel: Kernel) -> None:
        """Keep the free slots of the kernel for one job only."""
        self.reserved[kernel.number] = kernel
        self.changed(kernel)

    def unreserve(self, kernel: Kernel) -> None:
        """Open the free slots of the kernel to all jobs again."""
        del self.reserved[kernel.number]
        self.changed(kernel)

    def _remove(self, kernel: Kernel) -> None:
        self.at_driver_limit.pop(kernel.number, None)
        group = self.free.get(kernel.profile)
        if group is not None:
            group.pop(kernel.number, None)
            if not group:
                del self.free[kernel.profile]

    def place(self, profile: KernelProfile, prepared: Iterable[int], needs: Needs) -> Kernel:
        """A kernel of this profile for a unit: one that has its job *prepared*, else one that can run it now, else the
        one with the most free slots.
        """
        group = self.free[profile]
        for number, _ in zip(prepared, range(MAX_CANDIDATES), strict=False):
            kernel = group.get(number)
            if kernel is not None and kernel.fits(needs):
                return kernel
        best: Kernel | None = None
        for kernel, _ in zip(group.values(), range(MAX_CANDIDATES), strict=False):
            if kernel.fits(needs):
                best = kernel
                break
            if best is None or kernel.free > best.free:
                best = kernel
        assert best is not None
        # the next unit goes to another kernel, so that all kernels are used (and heated) alike
        del group[best.number]
        group[best.number] = best
        return best

    def check(self, kernels: Iterable[Kernel]) -> None:
        """Assert that every kernel stands where its room says."""
        for kernel in kernels:
            open_ = kernel.free > 0 and not kernel.reserved and not kernel.closed
            listed = kernel.number in self.free.get(kernel.profile, {})
            assert listed == (open_ and not kernel.full_of_drivers), kernel.number
            assert (kernel.number in self.at_driver_limit) == (open_ and kernel.full_of_drivers), (
                kernel.number
            )
            assert (kernel.number in self.reserved) == bool(kernel.reserved), kernel.number
            assert kernel.closed or kernel.profile in self._work_classes
