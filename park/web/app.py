"""The routes of the page: HTML, JSON and the stream of events, each behind `park.web.guard`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import DecodeError, json
from msgspec.structs import replace
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from park.core.server import ServerProxy
from park.errors import InvalidRequest, NoBroker, ParkError, Refused, UnknownJob, WaitTimeout
from park.model import JobRecord
from park.text import visible
from park.version import __version__
from park.web import fit_file, metrics, steering
from park.web.access import Gate
from park.web.guard import Guard, prefix_of, session_of
from park.web.listing import PAGE_ROWS, ArchivePage, ArchiveView, View
from park.web.watch import FabricWatch

FOLDER = Path(__file__).parent
#: The most bytes of a change that a browser sends.
MAX_BODY_BYTES = 64 * 1024
_STATUS: tuple[tuple[type[ParkError], int], ...] = (
    (UnknownJob, 404),
    (Refused, 403),
    (NoBroker, 503),
    (WaitTimeout, 503),
    (InvalidRequest, 400),
    (ParkError, 409),
)

_pages = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)


class Site:
    """The handlers of one web process."""

    def __init__(self, watch: FabricWatch, gate: Gate, cookie: str, place: str) -> None:
        self.watch = watch
        self.gate = gate
        self.cookie = cookie
        #: the broker's address, for scripts that are copied; "": the local service
        self.place = place

    # -- pages ---------------------------------------------------------------------------------

    async def jobs_page(self, request: Request) -> Response:
        return self._page(request, "jobs.html")

    async def job_page(self, request: Request) -> Response:
        return self._page(request, "job.html")

    async def compare_page(self, request: Request) -> Response:
        return self._page(request, "compare.html")

    def _page(self, request: Request, name: str) -> Response:
        text = _pages.get_template(name).render(
            xsrf=self.gate.xsrf(session_of(request.scope, self.cookie)), version=__version__
        )
        return HTMLResponse(text)

    async def login(self, request: Request) -> Response:
        """The one-time token of the printed address becomes a cookie."""
        session = self.gate.redeem(request.query_params.get("token", ""), time.monotonic())
        if session is None:
            if self.gate.admits(session_of(request.scope, self.cookie)):
                return RedirectResponse("./", 303)
            text = _pages.get_template("refused.html").render(
                title="This address has been used, or is too old",
                text="An address opens the page once, and within ten minutes. "
                "Press Enter in the terminal where park web runs: it prints a new one.",
            )
            return HTMLResponse(text, 403)
        # Not a redirect: the cookie is sent to a page that this site itself leads to.
        response = HTMLResponse(_pages.get_template("welcome.html").render())
        response.set_cookie(
            self.cookie, session, path=prefix_of(request.scope), httponly=True, samesite="strict"
        )
        return response

    async def token(self, request: Request) -> Response:
        """A new token; `park.web.guard` has checked the secret of the page's file."""
        return _json({"token": self.gate.new_token(time.monotonic())})

    # -- numbers -------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        stale = self.watch.table.stale
        return _json({"status": "stale" if stale else "ok", "version": __version__}, 503 if stale else 200)

    async def metrics(self, request: Request) -> Response:
        return Response(metrics.exposition(self.watch.numbers), media_type=metrics.CONTENT_TYPE)

    async def events(self, request: Request) -> Response:
        last = request.headers.get("last-event-id") or request.query_params.get("last", "")
        return EventSourceResponse(self.watch.board.events(last), ping=15, send_timeout=30)

    async def jobs(self, request: Request) -> Response:
        watch = self.watch
        if request.query_params.get("archived"):
            return await self._archived(request)
        page = watch.page(View.of(request.query_params), time.monotonic())
        return _json(
            {
                "number": watch.board.number,
                "rows": [watch.row(record, shown=True) for record in page.records],
                "total": page.total,
                "page": page.page,
                "pages": page.pages,
                "states": page.states,
                "choices": watch.choices() if request.query_params.get("choices") else None,
            }
        )

    async def _archived(self, request: Request) -> Response:
        """A page of jobs that ended long ago, from the broker's archive.

        *total*: the number of jobs that pass the filters. *first*: the place of the page's first row among them, from 1.
        *older*: the next page has lower numbers than this; 0: there is none.
        """
        watch = self.watch
        view = ArchiveView.of(request.query_params)
        page = await asyncio.to_thread(archive_page, watch.service, view)
        more = len(page.records) >= PAGE_ROWS  # one of them may be missing, if it cannot be read
        return _json(
            {
                "number": watch.board.number,
                "rows": [watch.row(record) for record in page.records[:PAGE_ROWS]],
                "total": page.total,
                "first": page.first,
                "older": page.records[:PAGE_ROWS][-1].job if more else 0,
                "choices": watch.choices() if request.query_params.get("choices") else None,
            }
        )

    async def job(self, request: Request) -> Response:
        number = number_of(request.path_params["job"])
        record = await asyncio.to_thread(self.watch.service.status, number)
        row = self.watch.row(record, shown=True)
        may = steering.actions(record, self.watch.user, self.watch.admin)
        files: dict[str, int] = {}
        if row["mine"] and record.kind != "session":
            with contextlib.suppress(ParkError):
                files = await asyncio.to_thread(self._sizes, number)
        return _json(row | about(record, self.place) | {"actions": may, "files": files})

    def _sizes(self, job: int) -> dict[str, int]:
        return {visible(name): size for name, size in self.watch.service.files(job).sizes().items()}

    async def feed(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        feed = self.watch.feeds.of(number_of(request.path_params["job"]))
        return _json(feed.after(int(after[:12]) if after.isascii() and after.isdigit() else 0))

    async def fit(self, request: Request) -> Response:
        data = await asyncio.to_thread(self._file, number_of(request.path_params["job"]), fit_file.NAME)
        return _json({"fit": None if data is None else fit_file.read(data)})

    async def file(self, request: Request) -> Response:
        """A file of a job, to be saved: a browser never shows it as a page."""
        name = request.query_params.get("name", "")
        data = await asyncio.to_thread(self._file, number_of(request.path_params["job"]), name)
        if data is None:
            return _json({"error": f"the job has no file {visible(name)!r}"}, 404)
        safe = "".join(char if char.isalnum() or char in "._- " else "_" for char in name) or "file"
        disposition = f"attachment; filename*=UTF-8''{quote(safe, safe='')}"
        return Response(
            data, media_type="application/octet-stream", headers={"Content-Disposition": disposition}
        )

    def _file(self, job: int, name: str) -> bytes | None:
        return self.watch.service.files(job).get(name)

    # -- changes -------------------------------------------------------------------------------

    async def steer(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise InvalidRequest(f"a change has at most {MAX_BODY_BYTES:,} bytes")
        try:
            given = json.decode(body or b"{}")
        except DecodeError:
            given = None
        if not isinstance(given, dict):
            raise InvalidRequest("a change is a JSON object")
        job, action = number_of(request.path_params["job"]), request.path_params["action"]
        return _json(await asyncio.to_thread(steering.steer, self.watch.service, job, action, given))


def about(record: JobRecord, place: str) -> dict[str, Any]:
    """The parts of a record that only the page of its job shows."""
    return {
        "alltags": [visible(tag) for tag in record.tags],
        "argv": [visible(word) for word in record.argv],
        "after": list(record.after),
        "when": record.when,
        "done": record.done,
        "total": record.total,
        "seconds": record.seconds,
        "credits": record.credits,
        "hosts": [visible(host) for host in record.hosts],
        "python": record.python,
        "pure": record.doubled is not None,
        "again": run_again(record.job, place),
    }


def run_again(job: int, place: str) -> dict[str, str]:
    """Code that runs a job again, by its label. The local service (*place* "") is known only in its own process."""
    if not place:
        return {"In the script, while it runs": f"park.local_service.wait(park.local_service.retry({job}))"}
    script = (
        f"import park\n\nwith park.connect({place!r}) as service:\n    job = service.retry({job})\n"
        "    print(service.wait(job))\n"
    )
    return {"In a shell": f"park retry {job}", "In Python": script}


def archive_page(service: ServerProxy, view: ArchiveView) -> ArchivePage:
    """A page of the archive. The job whose number the text is stands before all others."""
    records, total = service.archived(view.query, view.below), service.count_archived(view.query)
    before = total - service.count_archived(view.query, view.below) if view.below else 0
    if (named := _named(service, view)) is not None:
        records = [each for each in records if each.job != named.job]
        found = view.query.matches(named)
        total += not found
        if not view.below:
            records = [named, *records]
        elif not found or named.job < view.below:  # else the query has counted it
            before += 1
    return ArchivePage(records, total, before + 1)


def _named(service: ServerProxy, view: ArchiveView) -> JobRecord | None:
    """The archived job whose number the text is, if it passes the other filters."""
    if not view.number or view.number in service.table.jobs:
        return None
    with contextlib.suppress(UnknownJob):
        record = service.status(view.number)
        if replace(view.query, word="").matches(record):
            return record
    return None


def number_of(text: str) -> int:
    """The number of a job in an address. Raises UnknownJob."""
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UnknownJob(f"{text!r:.40} is no number of a job")
    return int(text)


def _json(data: Any, status: int = 200) -> Response:
    return Response(json.encode(data), status, media_type="application/json")


async def _failed(request: Request, error: Exception) -> Response:
    """A refusal of the fabric, as a sentence."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return _json({"error": visible(str(error), lines=True)}, status)


async def _not_found(request: Request, error: Exception) -> Response:
    text = "The address of a job's page is job?n=NUMBER behind that of the table."
    page = _pages.get_template("refused.html").render(title="There is no such page", text=text)
    return HTMLResponse(page, 404)


def make_app(watch: FabricWatch, gate: Gate, cookie: str, place: str) -> Guard:
    """The whole page as an ASGI application."""
    site = Site(watch, gate, cookie, place)

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(watch.run())
        try:
            yield
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    api = [
        Route("/jobs", site.jobs),
        Route("/job/{job}", site.job),
        Route("/job/{job}/feed", site.feed),
        Route("/job/{job}/fit", site.fit),
        Route("/job/{job}/file", site.file),
        Route("/job/{job}/{action}", site.steer, methods=["POST"]),
    ]
    routes = [
        Route("/", site.jobs_page),
        Route("/job", site.job_page),
        Route("/compare", site.compare_page),
        Route("/login", site.login),
        Route("/token", site.token, methods=["POST"]),
        Route("/health", site.health),
        Route("/metrics", site.metrics),
        Route("/events", site.events),
        Mount("/api", routes=api),
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
    ]
    app = Starlette(routes=routes, lifespan=life, exception_handlers={ParkError: _failed, 404: _not_found})
    refused = _pages.get_template("refused.html")
    return Guard(app, gate, cookie, lambda title, text: refused.render(title=title, text=text))
