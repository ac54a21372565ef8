"""The page as people see it, in a real Chromium."""

from __future__ import annotations

import re
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import park
from park.fit import Assembly, Model
from park.web.serving import PageServer, served
from tests.support.fabric import Fabric, Process, until
from tests.web.browser import Reader, browsers
from tests.web.test_command import WEB, printed

cloudpickle.register_pickle_by_value(sys.modules[__name__])

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers() as browser:
        yield browser


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with served(park.local_service, admin=True, place="", port=0) as server:
        yield server


@pytest.fixture
def reader(browser: Any, server: PageServer) -> Iterator[Reader]:
    reader = Reader(browser, server.address())
    yield reader
    reader.close()
    assert reader.complaints == []


def endless() -> str:
    env = park.environment()
    done = 0
    while not env.should_stop:
        done += 1
        env.publish(park.Progress(done, 10_000, "steps", f"chisq {1 + 100 / done:.4g}"))
        env.publish(park.Improvement(100.0 / done, {"b1": float(done), "b2": -1.0}, done))
        env.ready()
        time.sleep(0.02)
    return "best so far"


def line(x: Any, a: float, b: float) -> Any:
    return a * x + b


def fit(**fields: Any) -> park.Fit:
    x = np.linspace(0, 1, 30)
    noise = np.random.default_rng(3).normal(size=x.size)
    model = Model(line, a=(0.0, 10.0), b=(-5.0, 5.0))
    return park.Fit(Assembly((model, (x, 2 * x + 1 + 0.1 * noise, np.full(30, 0.1)))), "amoeba", **fields)


def row(page: Any, number: int) -> Any:
    return page.locator(f'tr[data-job="{number}"]')


def test_a_short_story(reader: Reader, server: PageServer) -> None:
    """A job appears, moves, is steered by keys and ended, without a reload; texts are texts; axe finds nothing."""
    page, service = reader.page, park.local_service
    page.evaluate("() => { window.neverReloaded = true }")
    number = service.start(endless, name="a long search", tags=EVIL)
    moving = row(page, number)
    moving.locator(".badge", has_text="running").wait_for()
    assert moving.locator(".tag", has_text=EVIL).count() == 1
    first = moving.locator(".far").inner_text()
    until(lambda: moving.locator(".far").inner_text() != first)
    assert "chisq" in moving.inner_text()
    assert reader.violations(page) == []

    page.keyboard.press("/")
    page.keyboard.type("long search")
    page.wait_for_url("**/?text=long+search")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("a")
    dialog = page.locator("dialog[open]")
    assert f"Abort job {number}" in dialog.inner_text()
    assert reader.violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    moving.locator(".badge", has_text="aborted").wait_for()
    assert page.evaluate("() => window.neverReloaded")
    assert service.status(number).state == "aborted"


@pytest.mark.heavy
def test_a_fit_is_watched_and_read(reader: Reader) -> None:
    """Its best points while it runs; then data, parameters and their errors, to be saved."""
    page, service = reader.page, park.local_service
    number = service.start(endless, name="a search that improves")
    page.goto(f"{reader.base}/job?n={number}")
    page.locator("#verdict", has_text="Best so far").wait_for()
    page.locator("#plots canvas").first.wait_for()
    before = page.locator("#parameter-rows").inner_text()
    until(lambda: page.locator("#parameter-rows").inner_text() != before)
    page.get_by_role("button", name="Stop").click()
    page.locator("#badge", has_text="stopped").wait_for()

    job = fit(name="a line")
    result = job.wait(60)
    page.goto(f"{reader.base}/job?n={job.id}")
    page.locator("#verdict", has_text="reduced chi-squared").wait_for()
    page.locator("#plots canvas").nth(1).wait_for()
    assert f"{result.chisq:.4g}"[:4] in page.locator("#verdict").inner_text()
    assert "68 % interval" in page.locator("#parameter-heads").inner_text()
    assert reader.violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 380, "height": 800})
    assert reader.violations(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 380
    other = fit(name="a line again", seed=5, starts=3)
    other.wait(60)
    page.goto(f"{reader.base}/job?n={other.id}")
    page.locator("#starts caption", has_text="of 3 starts ended at the best point").wait_for()
    assert page.locator("#starts tbody tr").count() == 3
    assert reader.violations(page) == []
    page.goto(f"{reader.base}/compare?n={job.id},{other.id},{number}")
    page.locator("#fit-heads", has_text=f"Job {other.id}").wait_for()
    page.locator("#plots canvas").wait_for()
    assert f"Job {number} has kept no numbers" in page.locator("#trouble").inner_text()
    assert reader.violations(page) == []
    page.go_back()
    page.locator("#plots canvas").nth(1).wait_for()
    for name, start in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"as {name}").first.click()
        picture = Path(download.value.path()).read_bytes()
        assert picture.startswith(start)
        assert download.value.suggested_filename.startswith(f"job-{other.id} ")
        if name == "PNG":  # for print, whatever the size of the window
            assert struct.unpack(">II", picture[16:24]) == (1920, 1200)
    with page.expect_download() as download:
        page.get_by_role("link", name="All numbers").click()
    assert Path(download.value.path()).read_bytes().startswith(b"{")
    with page.expect_download() as download:
        page.get_by_role("button", name="Parameters (CSV)").click()
    assert Path(download.value.path()).read_text().startswith("name,value,stderr")


@pytest.mark.heavy
def test_a_whole_story_by_keys_alone(reader: Reader) -> None:
    page, service, press = reader.page, park.local_service, reader.page.keyboard.press
    number = service.start(endless, name="keys only")
    row(page, number).locator(".badge", has_text="running").wait_for()
    press("?")
    assert "Next and previous job" in page.locator("dialog[open]").inner_text()
    press("Escape")
    press("j")
    press("i")
    for _ in ("low", "normal", "high"):
        press("ArrowDown")
    press("Enter")
    until(lambda: service.status(number).priority == 4)
    press("t")
    page.keyboard.type(", by=keys")
    press("Enter")
    until(lambda: "by=keys" in service.status(number).tags)
    press("p")
    until(lambda: service.status(number).state == "paused")
    row(page, number).locator(".badge", has_text="paused").wait_for()
    press("p")
    until(lambda: service.status(number).state in ("running", "queued"))
    row(page, number).locator(".badge", has_text=re.compile("running|queued")).wait_for()
    press("Enter")
    page.wait_for_url(f"**/job?n={number}")
    page.locator("#badge", has_text=re.compile("running|queued")).wait_for()
    press("s")
    page.locator("#badge", has_text="stopped").wait_for()
    press("d")
    press("Tab")
    press("Enter")
    page.wait_for_url(f"{reader.base}/")
    with pytest.raises(park.UnknownJob):
        service.status(number)


@pytest.mark.heavy
@pytest.mark.parametrize("query", ["", "?noworker=1"], ids=["SharedWorker", "BroadcastChannel"])
def test_seven_tabs_are_live_on_one_stream(reader: Reader, server: PageServer, query: str) -> None:
    """Browsers allow six connections: the seventh tab would never load if each had a stream."""
    tabs = [reader.tab() for _ in range(7)]
    for tab in tabs:
        tab.goto(f"{reader.base}/{query}")
    number = park.local_service.start(endless, name="seen by all")
    for tab in tabs:
        row(tab, number).locator(".badge", has_text="running").wait_for()
    streams = 2 if query else 1  # the first page of this browser has the worker's
    assert server.streams <= streams
    park.local_service.stop(number)
    for tab in tabs:
        row(tab, number).locator(".badge", has_text="stopped").wait_for()


@pytest.mark.heavy
def test_the_page_heals_after_the_death_of_the_broker(browser: Any, tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        with fabric.connect() as service:
            number = service.start(endless, name="outlives its broker")
        web = Process([*WEB, "--broker", fabric.address, "--port", "0"], tmp_path / "web")
        try:
            reader = Reader(browser, printed(web))
            page = reader.page
            row(page, number).locator(".badge", has_text="running").wait_for()
            page.goto(f"{reader.base}/job?n={number}")
            page.locator("#verdict", has_text="Best so far").wait_for()
            fabric.broker.kill()
            page.locator("#stale", has_text="no sign of the broker").wait_for()
            page.locator("#log-count", has_text="has been away").wait_for()
            told = page.locator("#verdict").inner_text()
            fabric.start_broker()
            page.locator("#stale").wait_for(state="hidden", timeout=60_000)
            page.locator("#contact", has_text="live").wait_for()
            until(lambda: page.locator("#verdict").inner_text() != told, 50)
            page.get_by_role("button", name="Stop").click()
            page.locator("#badge", has_text="stopped").wait_for()
            reader.close()
        finally:
            web.end()
