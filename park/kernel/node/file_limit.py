"""The number of slots that the limit of open files allows."""

from __future__ import annotations

from park.errors import InvalidRequest

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: Descriptors for each process: a socket, two pipes, both ends of a third, its pidfd, and a message on its way.
DESCRIPTORS_PER_PROCESS = 8
#: Descriptors for everything else.
OTHER_DESCRIPTORS = 64
#: Processes for each slot: with drivers that wait, and idle ones, there are more processes than slots.
PROCESSES_PER_SLOT = 13


def fit_slots(slots: int) -> tuple[int, str]:
    """The number of these *slots* that the limit of open files allows, and a sentence for the user; "": all of them.

    It raises the soft limit as far as that helps and is allowed. Raises InvalidRequest if the limit does not allow even
    one slot.
    """
    if resource is None:
        return slots, ""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted, found = wants(slots, soft, hard, resource.RLIM_INFINITY)
    if wanted != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # some sandboxes do not allow it
            _, found = wants(slots, soft, soft, resource.RLIM_INFINITY)
    if found == slots:
        return slots, ""
    limits = f"at most {hard} files may be open in this process (ulimit -Hn)"
    each = DESCRIPTORS_PER_PROCESS
    if not found:
        raise InvalidRequest(
            f"{limits}, which leaves no room for a slot: raise it to {OTHER_DESCRIPTORS + each} at least"
        )
    return found, f"{found} slot{'s'[: found != 1]}, not {slots}: {limits}, and each slot takes {each}"


def wants(slots: int, soft: int, hard: int, endless: int = -1) -> tuple[int, int]:
    """The soft limit to set for this many slots, and how many of them it allows. *endless*: the value for no limit.

    >>> wants(4, 1024, 4096), wants(30, 64, 4096), wants(30, 64, 100), wants(2, 64, 66), wants(300, -1, -1)
    ((1024, 4), (3184, 30), (100, 4), (66, 0), (-1, 300))
    """
    if soft == endless:
        return soft, slots
    wanted = OTHER_DESCRIPTORS + DESCRIPTORS_PER_PROCESS * PROCESSES_PER_SLOT * slots
    limit = max(soft, wanted if hard == endless else min(hard, wanted))
    return limit, min(slots, max(0, limit - OTHER_DESCRIPTORS) // DESCRIPTORS_PER_PROCESS)
