"""What messages must be before anything is made of them: what they say becomes keys of records, and parts of heads."""

from __future__ import annotations

import math

from park.core.needs import MAX_TEXT, check_needs
from park.errors import InvalidRequest, ProtocolError
from park.model import (
    MAX_CONTROL,
    MAX_KIND,
    MAX_LATEST,
    command_words,
    control_too_large,
    is_kind,
    owner_name,
    priority_number,
    texts,
)
from park.wire import codec, pack
from park.wire.messages import Change, Control, Hello, KernelHello, Publish, Submit

#: Bytes of a request without its inputs: it travels back, beside the job's record, in one head.
MAX_REQUEST = 24 * 1024


def check_hello(m: Hello | KernelHello) -> None:
    """Raises InvalidRequest or ProtocolError for what no peer is."""
    if len(m.incarnation) != 16:
        raise ProtocolError(f"an incarnation has 16 bytes, not {len(m.incarnation)}")
    names = [m.user] if isinstance(m, Hello) else [m.user, m.owner]
    for name in filter(None, names):
        owner_name(name)
    for what, text in (("python", m.python), ("host", getattr(m, "host", ""))):
        if len(text) > MAX_TEXT:
            raise ProtocolError(f"{what} has {len(text):,} characters, more than {MAX_TEXT}")


def check_control(m: Control, payload: bytes | memoryview) -> None:
    """Raises InvalidRequest or ProtocolError for what is no control that a client may send."""
    if len(m.key) != 16 or not len(payload):
        raise ProtocolError("a control has a key of 16 bytes, and says something")
    if len(payload) > MAX_CONTROL:
        raise InvalidRequest(control_too_large(len(payload)))


def check_publish(m: Publish, size: int) -> None:
    """Raises ProtocolError for what no message of a stream is called, and for one that is too long to be kept."""
    if not is_kind(m.kind):
        raise ProtocolError(
            f"{m.kind!r:.80} is no kind of message: it is an identifier of at most {MAX_KIND} bytes"
        )
    if size > MAX_LATEST and (m.header or not m.number):
        raise ProtocolError(f"the message of kind {m.kind} has {size:,} bytes, more than {MAX_LATEST:,}")


def check_submit(m: Submit, payload: bytes | memoryview) -> None:
    """Raises InvalidRequest or ProtocolError when no job can be made of *m*."""
    priority_number(m.priority)
    texts(m.tags, "tag")
    command_words(m.argv)
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
    if len(m.python) > MAX_TEXT:
        raise ProtocolError(f"python has {len(m.python):,} characters, more than {MAX_TEXT}")
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
