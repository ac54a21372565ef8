"""Maps of sessions and drivers: their units on the way to the broker, and results on the way back."""

from msgspec import field

from park.wire.messages.base import Count, Counts, Message


class Map(Message, frozen=True):
    """client -> broker, or driver -> kernel -> broker (*attempt*): one call of a map in the session or job *job*.

    The payload is a pack of the first *count* units; unless *closed*, more follow in Units. A driver that sends a map
    waits for all its results and gives its slot back at once. *seed* is the seed of the map. *epoch* is the life of the
    broker in which the map was sent first.

    The sender repeats the message after the connection was cut or the broker restarted. It then has the results of all
    units before *start*, the first unit of the payload, and those of the ranges in *answered*.

    *calls*: the units are calls that do not know each other. They travel in short chunks, so that a slow one holds up few
    others.
    """

    carries = True
    map: bytes
    job: Count
    function: bytes
    count: Count
    closed: bool = True
    seed: int = 0
    attempt: Count = 0
    epoch: Count = 0
    start: Count = 0
    answered: Counts = field(default_factory=list)
    calls: bool = False


class Units(Message, frozen=True):
    """client -> broker: further units of a job (*job*; the broker answers with Done once they are on disk) or of a
    session's map (*map*; no answer). The payload is their pack; *start* is the number of the first.
    """

    carries = True
    start: Count
    count: Count
    closed: bool
    map: bytes = b""
    job: Count = 0
    id: Count = 0


class Cancel(Message, frozen=True):
    """client -> broker: no more results of this map are wanted. Units that have not begun are dropped, and running ones
    are ended. The broker answers with Done.

    *spare*: running units go on, and their results come. The broker answers with Dropped. With *units*, ranges of units
    [first, behind the last, ...], only those are dropped, and the others still run.
    """

    map: bytes
    id: Count = 0
    spare: bool = False
    units: Counts = field(default_factory=list)


class Dropped(Message, frozen=True):
    """broker -> client: the answer to a Cancel that spares what runs. *units* are the ranges that had not begun and never
    will.
    """

    reply: Count
    map: bytes
    units: Counts


class Results(Message, frozen=True):
    """broker -> client: the results of units *start* to start + count of a map, or of a job (*reply*: of that Fetch). The
    payload is their pack.

    broker -> kernel -> slot (*attempt*): the same for a driver. *resume*: the map has ended, and the driver has a slot
    again.
    """

    carries = True
    start: Count
    count: Count
    map: bytes = b""
    job: Count = 0
    attempt: Count = 0
    resume: bool = False
    reply: Count = 0


class MapFailed(Message, frozen=True):
    """broker -> client: the map cannot go on (its session has ended, or its code is missing), and no more results come.

    broker -> kernel -> slot (*attempt*): the map of a driver was refused, and the driver has its slot again.

    With the error "Busy" the broker had no space for the map's last units: the sender repeats the map after 2 s.

    *job*: the session; 0: the one that the map has now. A client that the broker did not know any more opens its
    sessions anew, with their maps under the same keys. It ignores messages about the old session.
    """

    map: bytes
    error: str
    text: str
    job: int = 0
    attempt: Count = 0
