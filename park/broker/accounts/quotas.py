"""The quotas of one owner: jobs that have not ended, units without an answer, bytes in the store.

A request beyond a quota is refused before any part of it is kept. The refusal names the quota, the owner's use of it,
and the way to free some. Units of drivers count too, but are never refused, because their jobs run already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from park.errors import InvalidRequest, LimitReached
from park.model import MAX_MEMORY_BYTES

#: Bytes that a job takes in the store beside its request, code, inputs and results.
JOB_RECORD_BYTES = 2000


class Limits(Struct, frozen=True):
    """The most that an owner may have: *jobs* that have not ended, *units* that wait or run, *bytes* in the store.

    >>> Limits(jobs=10).jobs
    10
    """

    jobs: int = 10_000
    units: int = 20_000_000
    bytes: int = 50_000_000_000

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_MEMORY_BYTES:
                raise InvalidRequest(
                    f"{name}={value!r} is no limit: a whole number from 0 to {MAX_MEMORY_BYTES:.0e}"
                )


class LimitPolicy(Struct, frozen=True):
    """The limits of a broker: the *usual* ones, and those of single *owners*."""

    usual: Limits = field(default_factory=Limits)
    owners: Mapping[str, Limits] = field(default_factory=dict)

    def of(self, owner: str) -> Limits:
        return self.owners.get(owner, self.usual)


class Tally(Struct):
    """An owner's present use of its quotas."""

    jobs: int = 0
    units: int = 0
    bytes: int = 0
    #: controls that are kept for all jobs
    controls: int = 0
    #: bytes of units of sessions that are in memory
    spooled: int = 0


class Tallies:
    """The tallies of all owners."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def __iter__(self) -> Iterator[tuple[str, Tally]]:
        return iter(self._tallies.items())

    def of(self, owner: str) -> Tally:
        """The owner's, to be counted in."""
        found = self._tallies.get(owner)
        if found is None:
            found = self._tallies[owner] = Tally()
        return found


def limited(limits: Limits, tally: Tally | None) -> dict[str, tuple[int, int]]:
    """Each limited quota by name: (used, limit). *tally* None: the owner uses nothing.

    >>> limited(Limits(jobs=5), Tally(jobs=2))["jobs"]
    (2, 5)
    """
    tally = tally or Tally()
    return {name: (getattr(tally, name), getattr(limits, name)) for name in limits.__struct_fields__}


def check_quota(owner: str, limits: Limits, tally: Tally, jobs: int, units: int, size: int) -> None:
    """Raise LimitReached if this many more jobs, units or bytes would go beyond the owner's quotas."""
    if jobs and tally.jobs + jobs > limits.jobs:
        raise LimitReached(
            f"{owner} has {tally.jobs:,} jobs that have not ended, and may have {limits.jobs:,}: wait until some "
            f"have ended, or abort some ({_WHERE.format('jobs')})"
        )
    if units > limits.units:
        raise LimitReached(
            f"these are {units:,} units, and {owner} may have {limits.units:,} at once: submit them in "
            f"several requests, one after the other ({_WHERE.format('units')})"
        )
    if units and tally.units + units > limits.units:
        raise LimitReached(
            f"{owner} has {tally.units:,} units that wait or run, and may have {limits.units:,}, so {units:,} more "
            f"are too many: wait until some have ended, or abort a job ({_WHERE.format('units')})"
        )
    if size and tally.bytes + size > limits.bytes:
        raise LimitReached(
            f"{owner} has {tally.bytes:,} bytes in the store, and may have {limits.bytes:,}, so {size:,} more are "
            f"too many: delete jobs that have ended, with `park delete` ({_WHERE.format('bytes')})"
        )


_WHERE = "the limit is {} under [limits] in the broker's park.toml"
