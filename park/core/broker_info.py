"""A broker as it presents itself to its clients."""

from __future__ import annotations

from msgspec import Struct

from park.client.link import Link


class BrokerInfo(Struct, frozen=True):
    """A broker as it presents itself. *place* is its address, *release* its release of PARK, *store* the id of its
    store. *epoch* counts its lives, and *since* is the beginning of this one (seconds since 1970). *heartbeat* is the
    time between two signs of life, *lease* the time after which a silent client counts as lost (seconds). *ahead*:
    seconds by which its clock is ahead of the one here (None: not known yet; the broker publishes it each second).
    """

    place: str
    release: str
    store: str
    epoch: int
    since: float
    heartbeat: float
    lease: float
    ahead: float | None
    #: messages at which the broker itself has failed since its process began, as it published last
    faults: int = 0
    #: whether it sends mails about ended jobs
    mails: bool = False
    #: the time of its last write to the disk (seconds) and the number of its clients, as it published last
    commit_seconds: float = 0.0
    clients: int = 0
    #: bytes of its store's file in pages that hold nothing, as it published last
    unused_bytes: int = 0
    #: the sentence that its disk is full, as it published last; "": it has room
    full: str = ""


def broker_info(link: Link) -> BrokerInfo:
    """The broker at the other end of *link*, as it last welcomed this client."""
    welcome, feed = link.welcome, link.feed
    assert welcome is not None
    return BrokerInfo(
        link.name,
        welcome.release,
        welcome.store,
        welcome.epoch,
        welcome.since,
        welcome.heartbeat,
        welcome.lease,
        feed.ahead,
        feed.faults,
        bool(welcome.mails),
        feed.commit_seconds,
        feed.clients,
        feed.unused_bytes,
        feed.full,
    )
