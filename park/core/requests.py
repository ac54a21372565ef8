"""What a Submit must be before anything is made of it."""

from __future__ import annotations

import math

from park.core.needs import check_needs
from park.errors import InvalidRequest, ProtocolError
from park.model import priority_number, texts
from park.wire import codec, pack
from park.wire.messages import Change, Submit

#: Bytes of a request without its inputs: it travels back, beside the job's record, in one head.
MAX_REQUEST = 24 * 1024


def check_submit(m: Submit, payload: bytes | memoryview) -> None:
    """Raises InvalidRequest or ProtocolError when no job can be made of *m*."""
    priority_number(m.priority)
    texts(m.tags, "tag")
    if m.when is not None and not math.isfinite(m.when):
        raise InvalidRequest(f"when={m.when} is not a time")
    if m.on_error not in ("continue", "stop"):
        raise InvalidRequest(f"on_error={m.on_error!r:.40} is neither 'continue' nor 'stop'")
    for what, seconds in (("max_time", m.max_time), ("max_unit_time", m.max_unit_time)):
        if seconds < 0:
            raise InvalidRequest(f"{what}={seconds} is not a number of seconds")
    check_needs(m)
    size = len(codec.pack(codec.fields(m)))
    if size > MAX_REQUEST:
        raise InvalidRequest(
            f"name, tags and after of the request take {size:,} bytes, more than {MAX_REQUEST:,}: "
            "put what is long into the body or the inputs"
        )
    if len(m.key) != 16 or m.count < 0:
        raise ProtocolError("a request key has 16 bytes, and a count is not negative")
    if not (m.session or m.once) and pack.count(payload) != m.count:
        raise ProtocolError(f"the payload of the request does not hold {m.count} units")


def check_change(m: Change) -> None:
    """Raises InvalidRequest for new values that no job can have."""
    if m.priority is not None:
        priority_number(m.priority)
    if m.tags is not None:
        texts(m.tags, "tag")
        if len(codec.pack(list(m.tags))) > MAX_REQUEST // 2:
            raise InvalidRequest(f"the tags take more than {MAX_REQUEST // 2:,} bytes")
