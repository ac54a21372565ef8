"""The mails about ended jobs that are due: pure decisions, with the wall clock as an argument.

A `Notice` is the news of one job that has ended. It waits in the box of its owner and address, and leaves the box with
the `Letter` that tells it. So no news is told twice, even if the clock is set. Urgent news (failures, or all news if
the request says "now") goes at once, in at most one letter in `GATHER_SECONDS` for each address. All else waits for the
daily digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct, field

from park.model import CHANNEL, Record, is_channel

#: Seconds between two letters of urgent news to one address.
GATHER_SECONDS = 600.0
#: Seconds between two looks while news waits.
NEWS_POLL_SECONDS = 60.0
#: Letters that may wait for the SMTP server. While there are as many, further news stays in its boxes.
MAX_WAITING_LETTERS = 200
#: Notices that a letter lists; it counts the others.
MAX_LISTED_NOTICES = 200
#: The file with a fit's numbers, and the most bytes of it that a letter reads; the most fits that a letter shows.
FIT_FILE = "fit.json"
MAX_FIT_BYTES = 4 << 20
MAX_FITS = 20
DAY_SECONDS = 86400.0


class Notice(Record, frozen=True):
    """The news of one ended job. *when*: "daily", "now" or "fail", as its request says."""

    job: int
    owner: str
    address: str
    when: str
    state: str
    name: str = ""
    reason: str = ""
    started: float | None = None
    ended: float = 0.0
    done: int = 0
    failed: int = 0
    total: int | None = None
    #: slot-seconds
    seconds: float = 0.0

    @property
    def urgent(self) -> bool:
        """Whether the news does not wait for the digest."""
        return self.when == "now" or self.state == "failed"

    @property
    def wanted(self) -> bool:
        """Whether the request asks for this news at all."""
        return self.when != "fail" or self.state == "failed"


class Letter(Record, frozen=True):
    """One mail with all facts that its text needs. *kind* is "digest" or "urgent"; *day* is the local date."""

    number: int
    owner: str
    address: str
    kind: str
    day: str
    written: float
    #: notices and running jobs as maps, and how many more notices there are
    notices: tuple[dict[str, Any], ...] = ()
    more: int = 0
    running: tuple[dict[str, Any], ...] = ()
    credits: float | None = None
    #: the numbers of the jobs of the notices that are not listed, as "5-9, 12"
    others: str = ""
    #: how many of all these jobs have failed
    failed: int = 0


class MailTally(Record, frozen=True):
    """The mails that an owner got: their number on *day*, and by address the day of the last digest and the time of the
    last urgent letter.
    """

    day: str = ""
    count: int = 0
    digests: dict[str, str] = {}  # noqa: RUF012
    urgent: dict[str, float] = {}  # noqa: RUF012


class MailPolicy(Struct, frozen=True):
    """The schedule of digests (*hour*, *minute* in *zone*; "": that of this machine). *limit*: mails a day for an owner.

    *addresses*: mail goes to addresses. *channels*: the names of its channels.
    """

    hour: int = 7
    minute: int = 0
    zone: str = ""
    limit: int = 20
    addresses: bool = True
    channels: tuple[str, ...] = ()

    def refusal(self, address: str) -> str:
        """Why news cannot go to this address; "": it can."""
        if not address:
            return ""
        if not is_channel(address):
            return "" if self.addresses else f"no mail can go to {address}: this service has channels only"
        name = address.removeprefix(CHANNEL)
        if name in self.channels:
            return ""
        known = ", ".join(self.channels)
        return f"there is no channel {name!r} here" + (
            f"; there are {known}" if known else ": the service has none"
        )

    def local(self, wall: float) -> datetime:
        """The time *wall* as the site's clocks show it."""
        return datetime.fromtimestamp(wall, ZoneInfo(self.zone) if self.zone else None)

    def last_digest(self, wall: float) -> tuple[float, str]:
        """The latest time up to *wall* at which digests were due, and its date."""
        found = self.local(wall).replace(hour=self.hour, minute=self.minute, second=0, microsecond=0, fold=0)
        if found.timestamp() > wall:
            found -= timedelta(days=1)  # a day of the calendar, not 24 hours: the time of day stays
        return found.timestamp(), found.date().isoformat()


def ranges(jobs: Iterable[int]) -> str:
    """Numbers of jobs in short.

    >>> ranges([9, 5, 6, 7])
    '5-7, 9'
    """
    found: list[list[int]] = []
    for job in sorted(jobs):
        if found and job == found[-1][1] + 1:
            found[-1][1] = job
        else:
            found.append([job, job])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in found)


def is_near(day: str, today: str) -> bool:
    """Whether *day* is *today* or the day after it. A later day comes from a clock that was wrong."""
    return bool(day) and today <= day <= (date.fromisoformat(today) + timedelta(days=1)).isoformat()


class Box(Struct):
    """The news that waits for one address of an owner. *oldest*: the earliest end of its jobs."""

    notices: dict[int, Notice] = field(default_factory=dict)
    urgent: int = 0
    oldest: float = float("inf")


class Notices:
    """The news and the letters that wait, and the tallies of owners. *policy* None: no mail is sent."""

    def __init__(self, policy: MailPolicy | None, epoch: int) -> None:
        self.policy = policy
        self.boxes: dict[tuple[str, str], Box] = {}
        self.tallies: dict[str, MailTally] = {}
        self.letters: dict[int, Letter] = {}
        self._next = epoch << 32
        #: when news may next be due, monotonic seconds
        self.look_at = float("inf")

    @property
    def ways(self) -> str:
        """The ways that news can take, as `park.wire.messages.Welcome` names them."""
        if self.policy is None:
            return ""
        return "all" if self.policy.addresses else "channels"

    def new_number(self) -> int:
        """A number that no other letter of this store has."""
        self._next += 1
        return self._next

    def add(self, notice: Notice, now: float) -> None:
        """News has come at monotonic time *now*."""
        box = self.boxes.setdefault((notice.owner, notice.address), Box())
        box.notices[notice.job] = notice
        box.urgent += notice.urgent
        box.oldest = min(box.oldest, notice.ended)
        self.look_at = min(self.look_at, now if notice.urgent else now + NEWS_POLL_SECONDS)

    def due(self, wall: float) -> list[tuple[str, str, str]]:
        """Owner, address and kind of each letter that is due at *wall*."""
        if self.policy is None:
            return []
        found: list[tuple[str, str, str]] = []
        written: dict[str, int] = {}
        for (owner, address), box in self.boxes.items():
            if len(self.letters) + len(found) >= MAX_WAITING_LETTERS:
                break
            kind = self._kind(owner, address, box, wall, written.get(owner, 0))
            if kind:
                found.append((owner, address, kind))
                written[owner] = written.get(owner, 0) + 1
        return found

    def _kind(self, owner: str, address: str, box: Box, wall: float, written: int) -> str:
        """The kind of the letter that is due for this box, or "". *written*: letters to the owner that are due already."""
        assert self.policy is not None
        tally = self.tallies.get(owner, MailTally())
        today = self.policy.local(wall).date().isoformat()
        count = written + (tally.count if is_near(tally.day, today) else 0)
        moment, day = self.policy.last_digest(wall)
        ripe = (
            box.oldest < moment or box.oldest > wall + DAY_SECONDS
        )  # the clock was wrong when the job ended
        if ripe and not is_near(tally.digests.get(address, ""), day):
            return "digest" if count < self.policy.limit else ""
        since = abs(wall - tally.urgent.get(address, float("-inf")))
        # the last mail of the day is for the digest
        return "urgent" if box.urgent and since >= GATHER_SECONDS and count < self.policy.limit - 1 else ""

    def take(self, owner: str, address: str, kind: str) -> list[Notice]:
        """Take the news of a letter of this kind out of its box: a digest tells all of it."""
        box = self.boxes[owner, address]
        taken = [notice for notice in box.notices.values() if kind == "digest" or notice.urgent]
        for notice in taken:
            del box.notices[notice.job]
        box.urgent = 0
        box.oldest = min((notice.ended for notice in box.notices.values()), default=float("inf"))
        if not box.notices:
            del self.boxes[owner, address]
        return taken

    def count(self, letter: Letter) -> MailTally:
        """Count a letter that is written now; the tally of its owner afterwards."""
        assert self.policy is not None
        tally = self.tallies.get(letter.owner, MailTally())
        today = self.policy.local(letter.written).date().isoformat()
        near = is_near(tally.day, today)
        yesterday = (date.fromisoformat(today) - timedelta(days=1)).isoformat()
        digests = {a: d for a, d in tally.digests.items() if d >= yesterday}
        urgent = {a: t for a, t in tally.urgent.items() if abs(letter.written - t) < GATHER_SECONDS}
        if letter.kind == "digest":
            digests[letter.address] = self.policy.last_digest(letter.written)[1]
        else:
            urgent[letter.address] = letter.written
        tally = MailTally(tally.day if near else today, tally.count + 1 if near else 1, digests, urgent)
        self.tallies[letter.owner] = tally
        self.letters[letter.number] = letter
        return tally

    def set_look(self, now: float) -> None:
        """Say when news may next be due, after a look at *now*."""
        self.look_at = now + NEWS_POLL_SECONDS if self.boxes else float("inf")
