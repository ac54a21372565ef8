"""How many slots the limit of open files has room for."""

from __future__ import annotations

from park.errors import InvalidRequest

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: Descriptors of a process: a socket, two pipes, its end, and a message under way; and those of everything else.
EACH, OTHERS = 6, 64
#: Processes for each slot: drivers that wait, and idle ones, are more than there are slots.
PROCESSES = 5


def fit(slots: int) -> tuple[int, str]:
    """How many *slots* there is room for, and what is to be said of it.

    The soft limit is raised as far as it helps, and may be. Raises InvalidRequest where there is room for none.
    """
    if resource is None:
        return slots, ""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted, found = wants(slots, soft, hard, resource.RLIM_INFINITY)
    if wanted != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # it may not be, in some sandboxes
            _, found = wants(slots, soft, soft, resource.RLIM_INFINITY)
    if found == slots:
        return slots, ""
    limits = f"at most {hard} files may be open in this process (ulimit -Hn)"
    if not found:
        raise InvalidRequest(
            f"{limits}, which leaves no room for a slot: raise it to {OTHERS + EACH} at least"
        )
    return found, f"{found} slot{'s'[: found != 1]}, not {slots}: {limits}, and each slot takes {EACH}"


def wants(slots: int, soft: int, hard: int, endless: int = -1) -> tuple[int, int]:
    """The soft limit for so many slots, and how many of them there is room for.

    >>> wants(4, 1024, 4096), wants(30, 64, 4096), wants(30, 64, 100), wants(2, 64, 66), wants(300, -1, -1)
    ((1024, 4), (964, 30), (100, 6), (66, 0), (-1, 300))
    """
    if soft == endless:
        return soft, slots
    wanted = OTHERS + EACH * PROCESSES * slots
    most = max(soft, wanted if hard == endless else min(hard, wanted))
    return most, min(slots, max(0, most - OTHERS) // EACH)
