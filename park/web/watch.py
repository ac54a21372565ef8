"""The one mirror that all browsers share: it turns changes of the table into events, about four times a second.

Everything runs in the web process's own loop but for questions to the broker, which wait in threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

from park.core.server import ServerProxy
from park.errors import ParkError
from park.model import JobRecord, KernelRecord
from park.text import visible
from park.web import next_turn, reasons, rows
from park.web.board import Board
from park.web.job_feed import Feeds
from park.web.listing import Page, View, choices, page_of
from park.web.reasons import Reasons
from park.web.usage import Usage

#: Seconds between two events, and between two looks at accounts and reasons.
EVENT_SECONDS, ASK_SECONDS = 0.25, 2.0
#: Rows of one event; where more have changed, pages are told to ask again.
MAX_ROWS = 150
#: Seconds for which one page of the table is served to all that ask for it, and how many are kept.
PAGE_SECONDS, MAX_PAGES = 0.5, 64

_log = logging.getLogger("park")


class FabricWatch:
    """The state of the fabric for the pages. *user*: the owner of jobs of this page; *admin*: it may steer all jobs."""

    def __init__(self, service: ServerProxy, admin: bool) -> None:
        self.service = service
        self.admin = admin
        self.user = service.user
        self.table = service.table
        self.stale = self.table.stale
        self.board = Board(self.snapshot)
        self._changed: dict[int, JobRecord | None] = {}
        self._fresh = False
        self._kernels_changed = False
        self._usage = Usage()
        self._owners: list[dict[str, Any]] = []
        self._next: dict[str, Any] | None = None
        self._reasons = Reasons()
        self._pages: dict[View, tuple[float, Page]] = {}
        self._spoken: set[int] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.feeds = Feeds(service, self._feed_news)
        self.units_done = 0
        self.answer_seconds = 0.0

    # -- questions of pages ------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """All that the head of each page shows, and the tables of kernels and owners."""
        return {
            "user": visible(self.user),
            "admin": self.admin,
            "stale": self.stale,
            "now": time.time(),
            "summary": self._summary(),
            "kernels": self._kernels(),
            "owners": self._owners,
            "next": self._next,
        }

    def page(self, view: View, now: float) -> Page:
        """One page of the table."""
        kept = self._pages.get(view)
        if kept is not None and now - kept[0] < PAGE_SECONDS:
            return kept[1]
        page = page_of(view, self.table.jobs.values())
        if len(self._pages) >= MAX_PAGES:
            self._pages.clear()
        self._pages[view] = (now, page)
        return page

    def row(self, record: JobRecord, shown: bool = False) -> dict[str, Any]:
        """A line of the table, with the reason why the job waits and what the user may do.

        *shown*: a page shows it from now on, so its reason is kept fresh.
        """
        if shown and not record.state.ended:
            self._reasons.show(record.job, time.monotonic())
        row = rows.job_row(record)
        reason = row["reason"] or ("" if record.state.ended else self._reasons.of(record.job))
        return row | {"reason": reason, "mine": self.admin or record.owner == self.user}

    def choices(self) -> dict[str, list[str]]:
        """The owners and tags of most jobs."""
        return choices(self.table.jobs.values())

    def numbers(self) -> dict[str, Any]:
        """The numbers of `park.web.metrics`."""
        broker = self.service.about()
        return self._summary() | {
            "commit": broker.commit_seconds,
            "clients": broker.clients,
            "stale": self.table.stale,
            "seq": self.table.seq,
            "streams": self.board.streams,
            "deltas": self.board.number,
            "done": self.units_done,
            "answer": self.answer_seconds,
        }

    def _summary(self) -> dict[str, Any]:
        return rows.summary(self.table.jobs.values(), self.table.kernels.values())

    def _kernels(self) -> list[dict[str, Any]]:
        found = sorted(self.table.kernels.values(), key=lambda r: r.kernel)
        return [rows.kernel_row(record) for record in found]

    # -- changes --------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the table until cancelled."""
        self._loop = loop = asyncio.get_running_loop()
        end = self.table.subscribe(
            self._arrived, lambda call, *given: loop.call_soon_threadsafe(call, *given)
        )
        asking = asyncio.create_task(self._ask_for_ever())
        try:
            while True:
                await asyncio.sleep(EVENT_SECONDS)
                try:
                    if event := self._event():
                        self.board.publish(event)
                except Exception:
                    _log.exception("an event of the page was lost")
        finally:
            end()
            asking.cancel()
            self.feeds.close()
            self.board.close()

    def _arrived(self, old: Any, new: Any) -> None:
        record = old if new is None else new
        if isinstance(record, JobRecord):
            self._changed[record.job] = new
            self._fresh = self._fresh or old is None
            if old is not None and new is not None:
                self.units_done += max(0, new.done - old.done)
        elif isinstance(record, KernelRecord):
            self._kernels_changed = True

    def _event(self) -> dict[str, Any]:
        """The changes since the last event; empty: there are none."""
        event: dict[str, Any] = {}
        if (stale := self.table.stale) != self.stale:
            self.stale = event["stale"] = stale
        if self._kernels_changed:
            self._kernels_changed = False
            event["kernels"] = self._kernels()
        if self._spoken:
            spoken, self._spoken = self._spoken, set()
            event["feeds"] = {str(job): self.feeds.number(job) for job in spoken}
        if self._changed:
            changed, self._changed = self._changed, {}
            event["fresh"], self._fresh = self._fresh, False
            self._pages.clear()
            if len(changed) > MAX_ROWS:
                event["many"] = True
            else:
                event["jobs"] = [self.row(record) for record in changed.values() if record is not None]
                event["gone"] = [job for job, record in changed.items() if record is None]
        if event and self.board.streams:
            event["summary"] = self._summary()
        return event

    def _feed_news(self, job: int) -> None:
        """Take news in the thread of a feed."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._spoken.add, job)

    # -- questions to the broker, once for all pages ---------------------------------------

    async def _ask_for_ever(self) -> None:
        while True:
            try:
                await self._ask()
            except ParkError:  # the broker is away: the pages say so
                pass
            except Exception:
                _log.exception("the page could not look at accounts and reasons")
            await asyncio.sleep(ASK_SECONDS)

    async def _ask(self) -> None:
        now = time.monotonic()
        self.feeds.sweep(now)
        running: Counter[str] = Counter()
        for record in self.table.jobs.values():
            if record.running:
                running[record.owner] += record.running
        slots = sum(kernel.slots for kernel in self.table.kernels.values())
        self._usage.note(running, slots, now)
        if not self.board.streams or self.table.stale:
            return
        began = time.monotonic()
        accounts = await asyncio.to_thread(self.service.credits, "*")
        self.answer_seconds = time.monotonic() - began
        jobs = list(self.table.jobs.values())
        event: dict[str, Any] = {}
        owners = rows.owner_rows(accounts, jobs, self._usage.shares(now), slots)
        if owners != self._owners:
            self._owners = event["owners"] = owners
        first = next_turn.candidates(jobs)
        wanted = self._reasons.wanted(self.table.jobs, [record.job for record in first], now)
        changed = self._reasons.take(await asyncio.to_thread(reasons.ask, self.service, wanted))
        if changed:
            records = [self.table.jobs.get(job) for job in changed[:MAX_ROWS]]
            event["jobs"] = [self.row(record) for record in records if record is not None]
        served = next_turn.served_next(first, self._reasons.by_job)
        turn = None if served is None else self.row(served)
        if turn != self._next:
            self._next = event["next"] = turn
        if event:
            self.board.publish(event)
