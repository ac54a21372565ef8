"""The price of the web page: what it costs the broker, how late its rows are, and how its memory grows.

A broker over ipc with many waiting jobs, whose tags change at a steady rate: first without the page, then with the page,
which some streams of events read, each as a browser of its own. Where there is a Chromium, one tab of it shows the jobs:
each tag tells the moment at which its sender asked for it, and the tab tells when the new text has been drawn.
"""

from __future__ import annotations

import http.client
import importlib
import json
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.scale import Mark, Rows, Scale
from benchmarks.services import ROOT, broker, end, environment, remote
from park.core.server import ServerProxy

UNITS = {
    "broker": "%",
    "page": "%",
    "p50": "ms",
    "p95": "ms",
    "changes": "1/s",
    "memory": "MB",
    "an hour": "MB",
}
SYSTEMS = ("200 changes a second", "as many as go")
#: Changes a second, threads that make them, and changes of an hour.
RATE, THREADS, HOUR = 200, 16, 720_000
#: Readers of events, and jobs that change: those that a page shows first.
STREAMS, SHOWN = 20, 40
AT = "at="
#: Tells of each text that it was drawn: the moment in it, and the time after the next frame.
DRAWN = """() => {
  window.drawn = [];
  new MutationObserver((changes) => {
    const added = changes.flatMap((change) => [...change.addedNodes]).map((node) => node.textContent).join(" ");
    const found = new Set(added.match(/at=[0-9.]+/g));
    const note = () => found.forEach((text) => window.drawn.push([+text.slice(3), Date.now() / 1000]));
    requestAnimationFrame(() => setTimeout(note));
  }).observe(document.body, { childList: true, subtree: true });
}"""


def measure(system: str, scale: Scale) -> Rows:
    steady = system == SYSTEMS[0]
    rate, seconds = (RATE, scale.mirror) if steady else (10 * RATE, 5 * scale.mirror)
    with broker("ipc") as (address, _), remote(address, "bench", kernels=0) as service:
        with ThreadPoolExecutor(THREADS) as pool:
            numbers = pool.map(lambda _: service.start(abs, [-1], when=100_000.0), range(scale.jobs))
            jobs = sorted(numbers)[-SHOWN:]
        server = psutil.Process(json.loads(Path(address).read_text())["pid"])
        rows: Rows = {}
        if steady:
            _, made, (busy,) = change(service, jobs, rate, seconds, server)
            rows[f"{system}: no page"] = {"broker": busy, "changes": made}
        with (
            page(address) as (process, login),
            Readers(login) as readers,
            tab(readers.base, readers.cookie, steady) as drawn,
        ):
            change(service, jobs, rate, max(1, seconds // 4), process)  # it fills its caches
            before = process.memory_info().rss
            count, made, (busy, page_busy) = change(service, jobs, rate, seconds, server, process)
            after = process.memory_info().rss
            found = {"broker": busy, "page": page_busy, "changes": made, "memory": after / 1e6}
            if not steady:  # in few changes less is to be seen than the system rounds to
                found["an hour"] = (after - before) / count * HOUR / 1e6
            if delays := drawn():
                found |= {
                    "p50": 1e3 * statistics.median(delays),
                    "p95": 1e3 * statistics.quantiles(delays, n=20)[18],
                }
    return rows | {system: found}


def derive(rows: Rows) -> None:
    """Nothing is worked out from several."""


def marks() -> list[Mark]:
    return [Mark(SYSTEMS[1], "an hour", 64.0)]


def change(
    service: ServerProxy, jobs: list[int], rate: int, seconds: int, *watched: psutil.Process
) -> tuple[int, float, list[float]]:
    """Change tags at this rate, or as fast as they go: their number, changes a second, and the load of processes (%)."""
    began, used = time.monotonic(), [sum(process.cpu_times()[:2]) for process in watched]
    counts = [0] * THREADS

    def keep_on(number: int) -> None:
        while (now := time.monotonic()) < began + seconds:
            time.sleep(max(0.0, began + (counts[number] + number / THREADS) * THREADS / rate - now))
            job = jobs[(counts[number] * THREADS + number) % len(jobs)]
            service.set(job, tags=[f"{AT}{time.time():.4f}"])
            counts[number] += 1

    threads = [threading.Thread(target=keep_on, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    loads = [100 * (sum(p.cpu_times()[:2]) - before) / took for p, before in zip(watched, used, strict=True)]
    return sum(counts), sum(counts) / took, loads


@contextmanager
def page(address: str) -> Iterator[tuple[psutil.Process, str]]:
    """The web process of a broker, and the address that opens its page once; each line to it gives another one."""
    command = [
        sys.executable,
        "-m",
        "park.cli.park",
        "web",
        "--broker",
        address,
        "--port",
        "0",
        "--no-browser",
    ]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield psutil.Process(process.pid), process.stdout.readline().split()[-1]
        finally:
            end(process)  # type: ignore[arg-type]


class Readers:
    """Streams of events with one login, read by a thread that keeps nothing."""

    def __init__(self, login: str) -> None:
        self.base, _, token = login.rpartition("/")
        place = urlsplit(login)
        caller = http.client.HTTPConnection(str(place.hostname), place.port)
        caller.request("GET", f"/{token}")
        answer = caller.getresponse()
        self.cookie = str(answer.getheader("Set-Cookie")).partition(";")[0]
        answer.read()
        caller.close()
        self._selector = selectors.DefaultSelector()
        for _ in range(STREAMS):
            sock = socket.create_connection((place.hostname, place.port))
            ask = f"GET /events HTTP/1.1\r\nHost: {place.netloc}\r\nCookie: {self.cookie}\r\n\r\n"
            sock.sendall(ask.encode())
            self._selector.register(sock, selectors.EVENT_READ)
        self._over = False
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Readers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    def _read(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(0.2):
                if not key.fileobj.recv(1 << 20):  # type: ignore[union-attr]
                    raise RuntimeError("the page has ended a stream of events")


@contextmanager
def tab(base: str, cookie: str, wanted: bool) -> Iterator[Any]:
    """A tab of Chromium that shows the jobs; the function that it yields returns the delays until texts were drawn."""
    chromium = shutil.which("chromium")
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError:
        playwright = None
    if not wanted or chromium is None or playwright is None:
        yield list
        return
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = running.chromium.launch(executable_path=chromium, args=options)
        context = browser.new_context()
        name, _, value = cookie.partition("=")
        context.add_cookies([{"name": name, "value": value, "url": base}])
        shown = context.new_page()
        shown.goto(f"{base}/")
        shown.wait_for_selector("#rows tr")
        shown.evaluate(DRAWN)
        yield lambda: [there - said for said, there in shown.evaluate("window.drawn")]
        browser.close()
