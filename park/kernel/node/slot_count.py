"""The number of slots: the one that a user asks for, or the default."""

from __future__ import annotations

import os
from typing import Any

from park.errors import InvalidRequest
from park.kernel.node.read_allocation import usable_cpus


def check_slots(slots: Any, what: str) -> int:
    """*slots* if it is a number of slots; *what* names it in the error. Raises InvalidRequest."""
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= 4096:
        raise InvalidRequest(f"{what}={slots!r} is not a whole number from 1 to 4096")
    return slots


def default_slots() -> int:
    """$PARK_SLOTS, else the CPUs that this process may use."""
    text = os.environ.get("PARK_SLOTS", "")
    if text:
        if not text.isdigit():
            raise InvalidRequest(f"PARK_SLOTS={text!r} is not a whole number from 1 to 4096")
        return check_slots(int(text), "PARK_SLOTS")
    return usable_cpus()
