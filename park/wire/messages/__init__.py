"""Every message of the protocol, grouped by subject. The docstrings are the protocol.

`contact`: how peers meet, show that they live, and leave. `jobs` and `maps`: the work of clients. `attempts`: the work
of kernels and slot processes. `code`: long code on its way. `reading`: questions, and the public table.

A message travels as a head and an opaque payload, in one frame or in two (`park.wire.codec`). The head is a msgpack list
of at most 64 KiB: the version, the message, and the payload if it is short. Only the two ends open a payload. The message
is a list of its name and the values of all its fields, in the order of their definition. The types of the fields say
which values a field may hold, and `park.wire.codec.decode` holds every peer to them. A payload is empty where its message
does not set `carries`.

Version 2: the message is a list in the head. In version 1 its name and values stood in the head itself.

*id* numbers a peer's own requests (0: no answer is expected); the answer repeats it in *reply*. *epoch* is the life of
the broker in which a lease was given; it identifies answers that belong to another life. *attempt* is the number of one
dispatch of a chunk. *map* is the key (16 bytes) of one map, *key* a request key (16 bytes). *incarnation* is 16 random
bytes that a peer keeps for its life. A *user* or *owner* has at most 200 bytes. A list of ranges holds the first unit of
each range and the unit behind its last: [first, stop, first, stop ...].

The same messages cross every border: client and broker, broker and kernel, and, over a Unix socket pair, kernel and slot
process.
"""

from park.wire.messages.attempts import (
    Again,
    Aside,
    Began,
    Checkpoint,
    Checkpointed,
    Cleans,
    Committed,
    Crashed,
    Early,
    File,
    Finished,
    HandBack,
    Lend,
    Lent,
    Publish,
    Ready,
    Release,
    Restore,
    Resume,
    Run,
    Save,
    Setup,
)
from park.wire.messages.base import (
    COUNT,
    MAX_INT,
    MAX_ITEMS,
    VERSION,
    Count,
    Counts,
    Finite,
    Hashes,
    Message,
    Names,
    Record,
    Texts,
)
from park.wire.messages.code import (
    Blob,
    Drop,
    NeedBlob,
    Offer,
    Serve,
    Share,
    Shared,
)
from park.wire.messages.contact import (
    Drain,
    Draining,
    Goodbye,
    Heartbeat,
    Hello,
    KernelHello,
    Mapped,
    Opened,
    Part,
    Proceed,
    Serving,
    Unwelcome,
    Welcome,
)
from park.wire.messages.jobs import (
    Abort,
    Accepted,
    Change,
    Close,
    Control,
    Delete,
    Done,
    Failure,
    Fetch,
    Fetched,
    Forget,
    Stop,
    Submit,
)
from park.wire.messages.maps import (
    Cancel,
    Dropped,
    Map,
    MapFailed,
    Results,
    Units,
)
from park.wire.messages.reading import (
    Backlog,
    Credits,
    Deltas,
    Filed,
    Files,
    Grant,
    Head,
    Header,
    Logs,
    Records,
    Snapshot,
    Status,
    Stream,
    Unwatch,
    Watch,
)

MESSAGES: dict[str, type[Message]] = {
    name: cls
    for name, cls in list(globals().items())
    if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message
}
