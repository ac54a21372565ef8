"""Checks of messages before anything else looks at them: their fields become keys of records and parts of heads."""

from __future__ import annotations

import ipaddress
import itertools
import math

from park.broker.accounts import budgets
from park.broker.entities.requirements import check_needs
from park.errors import InvalidRequest, ProtocolError
from park.model import (
    MAX_CONTROL_BYTES,
    MAX_KIND_BYTES,
    MAX_LATEST_BYTES,
    MAX_MEMORY_BYTES,
    MAX_NODE_GPUS,
    MAX_PROGRESS,
    Serves,
    command_words,
    control_too_large,
    environment_name,
    is_kind,
    notify_words,
    owner_name,
    priority_number,
    texts,
)
from park.wire import codec, pack
from park.wire.messages import Change, Control, Hello, KernelHello, Publish, Shared, Submit

#: More slots than any node has.
MAX_SLOTS = 1 << 16
#: The last second of the year 9999, the latest time that calendars know (seconds since 1970).
MAX_WALL_SECONDS = 253402300799.0
#: Bytes of a request without its inputs. It travels back in one head with the record of the job.
MAX_REQUEST_BYTES = 24 * 1024
#: Characters of the state of an allocation, as a client sets it.
MAX_ALLOCATION_CHARS = 400


def check_hello(m: Hello | KernelHello) -> None:
    """Raises InvalidRequest or ProtocolError where a field of the hello is too long or has a wrong form."""
    if len(m.incarnation) != 16:
        raise ProtocolError(f"an incarnation has 16 bytes, not {len(m.incarnation)}")
    names = [m.user] if isinstance(m, Hello) else [m.user, m.owner]
    for name in filter(None, names):
        owner_name(name)
    for name in ("python", "host", "batch", "node", "machine"):
        _check_text(name, getattr(m, name, ""))
    if isinstance(m, KernelHello):
        _check_kernel(m)


def _check_text(name: str, text: str) -> None:
    if len(text) > budgets.MAX_TEXT_CHARS:
        raise ProtocolError(f"{name} has {len(text):,} characters, more than {budgets.MAX_TEXT_CHARS}")


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ProtocolError(f"{text!r:.60} is no IP address") from None


def check_shared(m: Shared) -> None:
    """Raises ProtocolError if the message names no place at which a kernel can find code."""
    if not m.process or m.process >= 1 << 31 or m.file >= 1 << 31:
        raise ProtocolError(f"there is no file {m.file} of process {m.process}")
    if m.port and not 1024 <= m.port < 1 << 16:
        raise ProtocolError(f"a kernel serves code at no port {m.port}")
    if m.port and (len(m.cipher), len(m.key), len(m.secret)) != (16, 32, 32):
        raise ProtocolError("a ciphertext has a name of 16 bytes, a key of 32 and a secret of 32")


def _check_kernel(m: KernelHello) -> None:
    """Raises ProtocolError where a field of the hello is too long or has a wrong form."""
    if not 1 <= m.slots <= MAX_SLOTS:
        raise ProtocolError(f"a kernel has 1 to {MAX_SLOTS} slots, not {m.slots}")
    for name in m.environments:
        environment_name(name)
    if m.gpus > MAX_NODE_GPUS:
        raise ProtocolError(f"a kernel has at most {MAX_NODE_GPUS} GPUs, not {m.gpus}")
    if m.peers:
        _check_address(m.peers)
    if m.serves not in tuple(Serves):
        raise ProtocolError(f"a kernel cannot serve {m.serves!r:.40}")
    if m.memory > MAX_MEMORY_BYTES:
        raise ProtocolError(f"memory={m.memory} is more than any node has")
    for count, limit, kind in (
        (len(m.packages), budgets.MAX_PACKAGES, "packages"),
        (len(m.labels), budgets.MAX_LABELS, "labels"),
        (len(m.environments), budgets.MAX_ENVIRONMENTS, "environments"),
        (len(m.attempts), budgets.MAX_CLAIMS, "attempts"),
    ):
        if count > limit:
            raise ProtocolError(f"a kernel names at most {limit:,} {kind}, not {count:,}")
    for kind, texts_ in (
        ("a package's name", m.packages),
        ("a version", m.packages.values()),
        ("a label", m.labels),
        ("a version of Python", m.environments.values()),
    ):
        for text in texts_:
            _check_text(kind, text)


def check_control(m: Control, payload: bytes | memoryview) -> None:
    """Raises InvalidRequest or ProtocolError unless a client may send this control."""
    if len(m.key) != 16 or not len(payload):
        raise ProtocolError("a control has a key of 16 bytes, and says something")
    if len(payload) > MAX_CONTROL_BYTES:
        raise InvalidRequest(control_too_large(len(payload)))


def check_publish(m: Publish, size: int) -> None:
    """Raises ProtocolError for a kind that is no name of a stream message, and for a message that is too long to be
    kept.
    """
    if not is_kind(m.kind):
        raise ProtocolError(
            f"{m.kind!r:.80} is no kind of message: it is an identifier of at most {MAX_KIND_BYTES} bytes"
        )
    if not all(0.0 <= number <= MAX_PROGRESS for number in (m.done or 0.0, m.total or 0.0)):
        raise ProtocolError(f"progress counts from 0 to {MAX_PROGRESS:g}, not {m.done} of {m.total}")
    if size > MAX_LATEST_BYTES and (m.header or not m.number):
        raise ProtocolError(
            f"the message of kind {m.kind} has {size:,} bytes, more than {MAX_LATEST_BYTES:,}"
        )


def check_submit(m: Submit, payload: bytes | memoryview) -> None:
    """Raises InvalidRequest or ProtocolError if *m* describes no job."""
    priority_number(m.priority)
    texts(m.tags, "tag")
    command_words(m.argv)
    if m.notify != notify_words(m.notify):
        raise ProtocolError(f"notify={m.notify!r:.80} is not written as an address and when")
    if m.when is not None and not (math.isfinite(m.when) and 0.0 <= m.when <= MAX_WALL_SECONDS):
        raise InvalidRequest(
            f"when={m.when} is not a time: it counts seconds since 1970, up to the year 9999"
        )
    if m.on_error not in ("continue", "stop"):
        raise InvalidRequest(f"on_error={m.on_error!r:.40} is neither 'continue' nor 'stop'")
    for what in ("max_time", "max_unit_time", "grace"):
        if (seconds := getattr(m, what)) < 0:
            raise InvalidRequest(f"{what}={seconds} is not a number of seconds")
    check_needs(m)
    size = len(codec.pack(codec.fields(m)))
    if size > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"name, tags and after of the request take {size:,} bytes, more than {MAX_REQUEST_BYTES:,}: "
            "put what is long into the body or the inputs"
        )
    if len(m.python) > budgets.MAX_TEXT_CHARS:
        raise ProtocolError(f"python has {len(m.python):,} characters, more than {budgets.MAX_TEXT_CHARS}")
    if len(m.key) != 16 or m.count < 0:
        raise ProtocolError("a request key has 16 bytes, and a count is not negative")
    if (m.once or m.session) and (m.count or len(payload)):
        raise ProtocolError("a request that runs once, or opens a session, brings no units")
    if m.once and (m.session or not m.closed):
        raise ProtocolError("a request that runs once is closed, and opens no session")
    if pack.count(payload) != m.count:
        raise ProtocolError(f"the payload of the request does not hold {m.count} units")


def check_answered(ranges: list[int]) -> None:
    """Raises ProtocolError unless *ranges* are pairs of a first unit and the unit behind a last one, ascending."""
    if len(ranges) % 2 or any(later < earlier for earlier, later in itertools.pairwise(ranges)):
        raise ProtocolError("the answered units of a map are pairs of ascending numbers")


def check_change(m: Change) -> None:
    """Raises InvalidRequest for values that a job cannot have."""
    if m.priority is not None:
        priority_number(m.priority)
    if m.tags is not None:
        texts(m.tags, "tag")
        if len(codec.pack(list(m.tags))) > MAX_REQUEST_BYTES // 2:
            raise InvalidRequest(f"the tags take more than {MAX_REQUEST_BYTES // 2:,} bytes")
    if m.allocation is not None and not (
        m.allocation.isprintable() and len(m.allocation) <= MAX_ALLOCATION_CHARS
    ):
        raise InvalidRequest(
            f"allocation {m.allocation!r:.80} is no printable text of at most {MAX_ALLOCATION_CHARS} characters"
        )
