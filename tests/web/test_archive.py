"""Jobs that ended long ago, on the page: the broker's archive, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from park.broker.entities.archive import RetentionPolicy
from park.broker.manager import JobManager
from park.core.connect import connect
from park.service import ServiceManager
from park.web.serving import PageServer, served
from tests.support.fabric import until
from tests.web.browser import Reader, browsers
from tests.web.site import Visitor

JOBS, IN_TABLE = 120, 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """The page of a broker with `JOBS` ended jobs, of which the last `IN_TABLE` are in the table."""
    home: Path = tmp_path_factory.mktemp("home")
    manager = ServiceManager(JobManager(keep=RetentionPolicy(jobs=IN_TABLE))).listen(home=home)
    manager.reactor.start("broker")
    try:
        with connect(manager.endpoints["clients"], "ann") as service:
            for n in range(JOBS):
                tags = [["even", "odd"][n % 2], *["12", "30"][: 2 * (n >= 20)]]
                job = service.start(abs, [1], when=1000, tags=tags, name=f"Scan {n // 10} of ann")
                service.abort(job)
            until(lambda: len(service.table.jobs) == IN_TABLE)
            with served(service, admin=True, place=manager.endpoints["clients"]) as server:
                yield server
    finally:
        manager.close()


def test_the_archive_comes_a_page_at_a_time(server: PageServer) -> None:
    with Visitor(server.address()) as visitor:
        visitor.enter()

        def found(query: str) -> list[int]:
            """The jobs of all pages."""
            jobs: list[int] = []
            totals: set[int] = set()
            below = 0
            while True:
                page = visitor.get(f"/api/jobs?archived=1{query}&below={below or ''}")
                assert page["first"] == len(jobs) + 1
                jobs += [row["job"] for row in page["rows"]]
                totals.add(page["total"])
                below = page["older"]
                if not below:
                    assert totals == {len(jobs)}
                    return jobs

        old = list(range(JOBS - IN_TABLE, 0, -1))
        assert found("") == old
        assert found("&tag=odd") == [job for job in old if job % 2 == 0]
        assert found("&text=Scan 3") == list(range(40, 30, -1))
        assert found("&text=7&state=aborted") == [
            7,
            *range(80, 70, -1),
        ]  # the number, then those with it in the name
        assert found("&owner=bob") == found("&state=failed") == found("&text=7&tag=even&owner=bob") == []
        assert found("&text=119") == []  # the table has it
        assert found("&text=12") == [12, *range(117, 20, -1)]  # the number, then those with the tag
        assert found("&text=30") == [30, *range(117, 30, -1), *range(29, 20, -1)]  # it has the tag too
        assert visitor.get("/api/jobs")["total"] == IN_TABLE
        assert "is no number of a job" in visitor.get("/api/jobs?archived=1&below=x", 400)["error"]
        assert visitor.post("/api/job/5/delete").status_code == 200
        assert 5 not in found("")


@pytest.mark.heavy
def test_the_archive_is_read_by_keys_and_by_links(server: PageServer) -> None:
    with browsers() as browser:
        reader = Reader(browser, server.address())
        page, press = reader.page, reader.page.keyboard.press

        def first(number: int) -> None:
            page.locator(f'#rows tr:first-child[data-job="{number}"]').wait_for()

        first(JOBS)
        press("o")
        page.wait_for_url("**/?archived=1")
        first(JOBS - IN_TABLE)
        assert page.get_by_label("from the archive").is_checked()
        assert page.locator('.chip[data-state="running"]').is_hidden()
        assert reader.violations(page) == []
        press("n")
        first(67)
        assert page.url.endswith("?archived=1&below=68")
        total = page.locator("#jobs-caption").inner_text().removesuffix(" archived jobs, the newest first")
        assert JOBS - IN_TABLE - 1 <= int(total) <= JOBS - IN_TABLE  # another test deletes one
        assert page.locator("#page").inner_text() == f"51 to 100 of {total}"
        press("j")
        press("Enter")
        page.wait_for_url("**/job?n=67")
        page.locator("#badge", has_text="aborted").wait_for()
        page.go_back()
        first(67)
        press("b")
        first(JOBS - IN_TABLE)
        press("/")
        page.keyboard.type("Scan 3")
        first(40)
        page.locator("#jobs-caption", has_text="10 archived jobs pass the filters").wait_for()
        assert "archived=1" in page.url
        assert "text=Scan+3" in page.url

        other = reader.tab()  # the link alone leads to the same place
        other.goto(f"{reader.base}/?archived=1&below=18&tag=odd")
        other.locator('#rows tr:first-child[data-job="16"]').wait_for()
        assert other.locator("#forth").is_disabled()
        other.locator("#back").click()
        other.locator('#rows tr:first-child[data-job="116"]').wait_for()
        other.get_by_label("from the archive").uncheck()
        other.locator(f'#rows tr:first-child[data-job="{JOBS}"]').wait_for()
        other.goto(f"{reader.base}/?archived=1&tag=nothing")
        other.locator("#rows", has_text="No archived job passes these filters.").wait_for()
        assert reader.complaints == []
        other.goto(f"{reader.base}/?state=foo")
        other.locator("#rows", has_text="there is no state 'foo'").wait_for()
        other.goto(f"{reader.base}/job?n=99999")
        other.locator("#why", has_text="job 99999 is unknown").wait_for()
        assert other.get_by_role("heading", name="Run again").is_hidden()
        reader.close()
