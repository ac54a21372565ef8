"""The live table as scripts follow it: callbacks, loops of their own, iterators, notebooks."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from park.client.live_table import Changes, LiveTable, merged
from park.core.connect import connect
from park.local import LocalService
from park.model import Delta, JobRecord, JobState, OwnerRecord
from park.net.keys import key_folder
from park.table.mirror import Change, Mirror
from park.table.table import pack_deltas
from park.wire.messages import Deltas, Header
from tests.campaign.proxy import Proxy, three_ports
from tests.support.fabric import ENVIRONMENT, ROOT, Fabric, until


class Broker:
    """Feeds a mirror."""

    def __init__(self) -> None:
        self.mirror = Mirror()
        self.mirror.wants_snapshot(0.0)
        self.mirror.feed(Header("store", 1, 0), pack_deltas([]), 0.0)

    def say(self, *deltas: Delta) -> None:
        message = Deltas("store", 1, self.mirror.seq + 1, len(deltas))
        self.mirror.feed(message, pack_deltas(deltas), 0.0)

    def owner(self, jobs: int) -> None:
        self.say(Delta("owner", "ada", {"owner": "ada", "jobs": jobs}))


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def table(broker: Broker) -> LiveTable:
    return LiveTable(broker.mirror, lambda callback: callback())


ADA = OwnerRecord("ada")


def test_a_follower_is_told_each_change_in_order(broker: Broker, table: LiveTable) -> None:
    seen: list[Change] = []
    end = table.subscribe(lambda old, new: seen.append((old, new)))
    broker.owner(1)
    broker.say(Delta("owner", "ada", {"jobs": 2}), Delta("owner", "ada", {"jobs": 3}))
    end()
    broker.owner(4)
    records = [replace(ADA, jobs=n) for n in (1, 2, 3)]
    assert seen == [(None, records[0]), (records[0], records[1]), (records[1], records[2])]
    assert table.seq == 4
    assert table.owners["ada"].jobs == 4


def test_what_a_follower_raises_is_logged_and_the_next_is_told(
    broker: Broker, table: LiveTable, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []
    table.subscribe(lambda old, new: 1 / 0)
    table.subscribe(lambda old, new: seen.append(new))
    broker.owner(1)
    assert seen == [replace(ADA, jobs=1)]
    assert "a subscriber to the table failed" in caplog.text


def test_a_loop_that_was_closed_is_told_nothing_more(
    broker: Broker, table: LiveTable, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    table.subscribe(lambda old, new: None, call_soon=loop.call_soon_threadsafe)
    broker.owner(1)
    broker.owner(2)
    assert caplog.text.count("has gone") == 1


def test_a_follower_that_is_behind_is_told_the_sum(broker: Broker) -> None:
    """Given one whose loop is busy, when much changes, then little is kept, and the last state arrives."""
    later: list[Any] = []
    table = LiveTable(broker.mirror, later.append)
    seen: list[Change] = []
    table.subscribe(lambda old, new: seen.append((old, new)))
    for n in range(25_000):
        broker.owner(n)
    assert len(later) == 1
    later.pop()()
    assert len(seen) <= 10_000
    assert seen[0][0] is None
    assert all(a[1] == b[0] for a, b in pairwise(seen))
    assert seen[-1][1] == replace(ADA, jobs=24_999)
    broker.owner(7)
    later.pop()()
    assert seen[-1] == (replace(ADA, jobs=24_999), replace(ADA, jobs=7))


def test_merged_changes_leave_out_what_came_and_went() -> None:
    job = JobRecord(1, "ada")
    other = replace(ADA, jobs=1)
    assert merged([(None, job), (None, ADA), (job, None), (ADA, other), (other, ADA)]) == [(None, ADA)]
    # numbers of jobs and of kernels are different rows
    assert len(merged([(None, JobRecord(1, "ada")), (None, OwnerRecord("1"))])) == 2


def test_many_rows_are_not_merged_again_and_again() -> None:
    waiting = Changes(most=10)
    began = [waiting.put((None, JobRecord(n, "ada"))) for n in range(1, 1000)]
    assert began == [True] + [False] * 998
    assert len(waiting.take()) == 999
    assert waiting.put((None, ADA))


def test_an_iterator_ends_when_nothing_comes_and_goes_on_later(broker: Broker, table: LiveTable) -> None:
    changes = table.changes(timeout=0.0)
    assert list(changes) == []
    broker.owner(1)
    broker.owner(2)
    assert [new.jobs for _, new in changes] == [1, 2]  # type: ignore[union-attr]
    changes.close()
    broker.owner(3)
    assert list(changes) == []


def test_an_iterator_that_waits_ends_with_the_connection(broker: Broker, table: LiveTable) -> None:
    seen: list[Change] = []
    changes = table.changes()
    thread = threading.Thread(target=lambda: seen.extend(changes))
    thread.start()
    broker.owner(1)
    until(lambda: seen)
    table.close()
    thread.join(10)
    assert not thread.is_alive()


def test_an_iterator_that_is_dropped_follows_no_longer(broker: Broker, table: LiveTable) -> None:
    changes = table.changes()
    assert len(broker.mirror._callbacks) == 1
    del changes
    gc.collect()
    assert not broker.mirror._callbacks


def test_a_notebook_shows_jobs_and_nothing_of_theirs_as_markup(broker: Broker, table: LiveTable) -> None:
    job = JobRecord(1, "ada", name="<script>alert(1)</script>", done=3, total=7)
    broker.say(Delta("job", 1, job.as_map()))
    text = table._repr_html_()
    assert "<td>3/7</td>" in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert text.count("<tr>") == text.count("</tr>") == 2


# -- real services -----------------------------------------------------------------------------------


@pytest.fixture
def service() -> Iterator[LocalService]:
    service = LocalService()
    service.configure(slots=1)
    yield service
    service.close()


#: The states of a job that runs at once.
STORY = [JobState.WAITING, JobState.QUEUED, JobState.RUNNING, JobState.COMPLETE]


def states(changes: list[Change], job: int) -> list[JobState]:
    """The states of the job as they followed each other."""
    news = [new.state for _, new in changes if isinstance(new, JobRecord) and new.job == job]
    return [state for state, before in zip(news, [None, *news], strict=False) if state is not before]


def test_a_program_of_asyncio_follows_in_its_own_loop(service: LocalService) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[Change] = []
        threads = set()
        ended = asyncio.Event()
        jobs: list[int] = []

        def changed(old: Any, new: Any) -> None:
            seen.append((old, new))
            threads.add(threading.get_ident())
            if isinstance(new, JobRecord) and new.state.ended:
                ended.set()

        end = service.table.subscribe(changed, call_soon=loop.call_soon_threadsafe)
        jobs.append(service.start(abs, [-1, -2]))
        await asyncio.wait_for(ended.wait(), 20)
        end()
        assert threads == {threading.get_ident()}
        assert states(seen, jobs[0]) == STORY

    asyncio.run(main())


def test_a_table_of_qt_follows_in_its_own_thread(tmp_path: Path) -> None:
    script = ROOT / "tests" / "support" / "qt_table.py"
    done = subprocess.run(
        [sys.executable, script],
        env=ENVIRONMENT | {"QT_QPA_PLATFORM": "offscreen", "PARK_SLOTS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["[[1, 'complete', '100/100'], [2, 'complete', '']]", "True"], (
        done.stderr
    )


def test_whoever_wants_the_table_asks_for_it_at_once(service: LocalService) -> None:
    link = service._link
    assert service._manager is not None
    assert service._manager.loop is not None
    broker = service._manager.loop
    assert broker.counts["c > Snapshot"] == 0
    link.feed.wait_synced(0.0)
    assert broker.counts["c > Snapshot"] == 1
    assert service.table.seq >= 0


def test_iterating_over_the_changes_of_a_service(service: LocalService) -> None:
    changes = service.table.changes(timeout=60)
    job = service.start(abs, [-1])
    seen = []
    for change in changes:
        seen.append(change)
        if isinstance(change[1], JobRecord) and change[1].state.ended:
            break
    assert states(seen, job) == STORY
    table = service.table
    assert not table.stale
    service.close()
    list(changes)  # ends, as the connection has
    assert table.stale


def test_a_table_that_is_cut_off_says_so_and_is_equal_again(tmp_path: Path) -> None:
    """Given a broker that is killed, then its table is stale; and when it is back, then it is equal to the new one."""
    with Fabric(tmp_path) as fabric:
        service = fabric.connect()
        table = service.table
        held = service.start(abs, [-1], when=1000)
        until(lambda: held in table.jobs)
        fabric.broker.kill()
        until(lambda: table.stale)
        assert held in table.jobs
        seen: list[Change] = []
        table.subscribe(lambda old, new: seen.append((old, new)))
        fabric.start_broker()
        until(lambda: not table.stale)
        second = service.start(abs, [-1], when=1000)
        until(lambda: second in table.jobs)
        other = fabric.connect().table
        until(lambda: other.seq == table.seq)
        assert dict(other.jobs) == dict(table.jobs)
        until(lambda: any(new is not None and getattr(new, "job", 0) == second for _, new in seen))


LOOKS = """
    import json, sys, time, park, park.table.mirror
    park.table.mirror.STALE_SECONDS = float(sys.argv[1])
    with park.connect() as service:
        table = service.table
        while True:
            print(json.dumps([table.stale, table.seq, len(table.jobs)]), flush=True)
            time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("silence", "seconds"), [(1.5, 2.5), pytest.param(5.0, 60.0, marks=pytest.mark.heavy)]
)
def test_the_table_of_a_process_that_was_stopped_says_that_it_is_old_and_is_soon_right(
    silence: float, seconds: float, tmp_path: Path
) -> None:
    with Fabric(tmp_path) as fabric:
        service = fabric.connect()
        table = service.table
        script = fabric.script(LOOKS, str(silence))

        def looks() -> list[list[Any]]:
            """The table of the mirror after each change."""
            return [json.loads(line) for line in script.text.split("\n")[:-1]]

        def right() -> list[Any]:
            return [False, table.seq, len(table.jobs)]

        service.start(abs, [-1], when=1000)
        until(lambda: len(table.jobs) == 1)
        until(lambda: right() in looks()[-1:], why=lambda: script.text[-200:])
        script.signal(signal.SIGSTOP)
        for _ in range(5):
            service.start(abs, [-1], when=1000)
        until(lambda: len(table.jobs) == 6)
        time.sleep(seconds)
        said = len(looks())
        script.signal(signal.SIGCONT)
        until(lambda: right() in looks()[said:], 50, why=lambda: f"{right()}, {looks()[said:]}")
        until(lambda: len(looks()) > said + 1)
        first = looks()[said + 1]  # the line before may have been begun when it was stopped
        assert first[0] or first == right(), looks()[said:]


@pytest.mark.heavy
def test_a_table_that_the_network_cuts_off_says_so_and_is_soon_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.table.mirror.STALE_SECONDS", 1.5)
    chance = random.Random(1)
    with Fabric(tmp_path, keys=True) as fabric:
        proxy = Proxy(three_ports(chance), int(fabric.url.rpartition(":")[2]))
        fabric.callback(proxy.close)
        shutil.copytree(key_folder(fabric.url), key_folder(proxy.url))
        table = fabric.connect().table
        with connect(proxy.url) as service:
            far = service.table
            service.start(abs, [-1], when=1000)
            until(lambda: len(far.jobs) == 1 and not far.stale)
            proxy.hold("table", 1.0, 3.0, chance)
            for _ in range(5):
                service.start(abs, [-1], when=1000)
            until(lambda: far.stale, 50)
            until(lambda: not far.stale and (far.seq, dict(far.jobs)) == (table.seq, dict(table.jobs)), 50)
            proxy.cut("table", 1.0, chance)
            for _ in range(5):
                service.start(abs, [-1], when=1000)
            until(lambda: not far.stale and (far.seq, dict(far.jobs)) == (table.seq, dict(table.jobs)), 50)
            assert len(far.jobs) == 11
