"""The text of a letter, plain and as HTML that a phone shows well."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from types import MappingProxyType
from typing import Any, NamedTuple

from msgspec import DecodeError, Struct, ValidationError, field, json

from park.mail.notices import Letter
from park.mail.settings import MailSettings

#: Parameters of one fit that a letter shows.
MAX_PARAMETERS = 12
#: Characters of one line about a job, of the head of a job, and of the numbers of jobs that are not listed.
MAX_LINE_CHARS, MAX_HEAD_CHARS, MAX_OTHERS_CHARS = 400, 120, 20_000
#: The bytes of a mail in all, and those of its texts: where the lines about its jobs would take more, they are left out.
MAX_MAIL_BYTES, MAX_TEXT_BYTES = 1_000_000, 200_000
#: Parts by which a picture grows in a mail, and the bytes of its own headers.
_BASE64, _PART_BYTES = 1.4, 500


class FitParameter(Struct):
    """A parameter in the file of a fit: *text* is its value with its error."""

    label: str = ""
    text: str = ""


class FitNumbers(Struct):
    """The part of the file of a fit that a letter shows."""

    statistic: str = ""
    chisq: float | None = None
    parameters: list[FitParameter] = field(default_factory=list)


class Entry(NamedTuple):
    """One job in a letter: a head such as "job 12 peak", its end in words, and lines of results or of the cause."""

    job: int
    head: str
    failed: bool
    how: str
    lines: list[str]


def composed(
    letter: Letter,
    fits: dict[int, bytes],
    settings: MailSettings,
    store: str,
    pictures: Mapping[int, bytes] = MappingProxyType({}),
) -> EmailMessage:
    """The mail of a letter. *fits*: files of fits, by job; *store*: the id of the store, for the Message-ID.

    *pictures*: PNG files by job. They are shown in the order of the mail, as many as it has room for.
    """
    entries = [_entry(notice, fits.get(notice["job"])) for notice in letter.notices]
    entries.sort(key=lambda entry: not entry.failed)
    if sum(len(escape(line).encode()) for entry in entries for line in entry.lines) > MAX_TEXT_BYTES:
        entries = [entry._replace(lines=[]) for entry in entries]
    domain = settings.sender.rpartition("@")[2]
    who = hashlib.blake2b(f"{letter.owner}\0{letter.address}".encode(), digest_size=6).hexdigest()
    thread = f"<park.{store}.{who}.{letter.day}@{domain}>"
    mail = EmailMessage(policy=SMTP)
    mail["From"] = f"PARK <{settings.sender}>"
    mail["To"] = letter.address
    mail["Subject"] = f"PARK {letter.day}: {_summary(letter)}"
    mail["Date"] = format_datetime(datetime.fromtimestamp(letter.written, UTC))
    mail["Message-ID"] = f"<park.{store}.{letter.number}@{domain}>"
    mail["In-Reply-To"] = mail["References"] = thread
    mail["List-Unsubscribe"] = f"<mailto:{settings.sender}?subject=unsubscribe>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(_plain(letter, entries, settings))
    mail.add_alternative(_html(letter, entries, settings, {}), subtype="html")
    room: float = MAX_MAIL_BYTES - len(mail.as_bytes())
    shown: dict[int, str] = {}
    for entry in entries:
        size = _BASE64 * len(pictures.get(entry.job, b"")) + _PART_BYTES
        if entry.job in pictures and size <= room:
            shown[entry.job] = f"fit-{entry.job}.{letter.number}@{domain}"
            room -= size
    if shown:
        html = mail.get_body(("html",))
        assert html is not None
        html.set_content(_html(letter, entries, settings, shown), subtype="html")
        for job, name in shown.items():
            # inline and without a name of a file: no program lists it as an attachment
            html.add_related(pictures[job], "image", "png", cid=f"<{name}>", disposition="inline")
    return mail


def clean(text: str, most: int = MAX_LINE_CHARS) -> str:
    """*text* in one line without control characters and marks that turn its direction, cut where it is long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def span(seconds: float) -> str:
    """A length of time in words.

    >>> span(42), span(5400), span(200000)
    ('42 s', '1 h 30 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _summary(letter: Letter) -> str:
    count = len(letter.notices) + letter.more
    words = f"{count} job{'s'[: count != 1]} ended"
    return f"{words}, {letter.failed} failed" if letter.failed else words


def _entry(notice: dict[str, Any], fit: bytes | None) -> Entry:
    failed = notice["state"] == "failed"
    how = {"complete": "complete", "failed": "failed", "aborted": "aborted"}.get(
        notice["state"], notice["state"]
    )
    if notice["started"]:
        how += f" after {span(max(0.0, notice['ended'] - notice['started']))}"  # the clock may have been set
    if notice["total"]:
        how += f", {notice['done']:,} of {notice['total']:,} units"
        how += f", {notice['failed']:,} failed" if notice["failed"] else ""
    lines = [clean(notice["reason"])] if notice["reason"] else []
    return Entry(
        notice["job"],
        clean(f"job {notice['job']} {notice['name']}", MAX_HEAD_CHARS),
        failed,
        how,
        lines + _fit_lines(fit),
    )


def _fit_lines(fit: bytes | None) -> list[str]:
    """The numbers of a fit at a glance; none where its file is damaged."""
    if fit is None:
        return []
    try:
        numbers = json.decode(fit, type=FitNumbers)
    except (DecodeError, ValidationError, RecursionError):
        return []
    lines = [] if numbers.chisq is None else [f"{clean(numbers.statistic or 'chisq')} {numbers.chisq:.4g}"]
    lines += [clean(f"{p.label} = {p.text}") for p in numbers.parameters[:MAX_PARAMETERS]]
    more = len(numbers.parameters) - MAX_PARAMETERS
    return lines + ([f"and {more} more parameters"] if more > 0 else [])


def _running(job: dict[str, Any]) -> str:
    part = f"{job['part']:.0%} done" if job["part"] else "runs"
    left = f", about {span(job['left'])} left" if job["left"] is not None else ""
    return clean(f"job {job['job']} {job['name']}", MAX_HEAD_CHARS) + f": {part}{left}"


def _closing(letter: Letter) -> list[str]:
    """The lines behind the jobs."""
    credits = [] if letter.credits is None else [f"{letter.credits:,.0f} credits are left."]
    return [
        *credits,
        "More: park show JOB, park fetch JOB, park jobs",
        "Less mail: park submit --mail-type fail or never, or unset PARKMAIL",
    ]


def _others(letter: Letter) -> str:
    """The jobs that the letter does not list."""
    cut = letter.others[:MAX_OTHERS_CHARS] + ("…" if len(letter.others) > MAX_OTHERS_CHARS else "")
    return f"and {letter.more} more jobs: {cut}"


def _link(settings: MailSettings, job: int | None = None) -> str:
    base = settings.page.rstrip("/") + "/"
    return base if job is None else f"{base}job?n={job}"


def _plain(letter: Letter, entries: list[Entry], settings: MailSettings) -> str:
    lines = [_summary(letter) + ".", ""]
    for entry in entries:
        lines += [f"{entry.head}: {entry.how}", *(f"    {line}" for line in entry.lines)]
    lines += [_others(letter)] if letter.more else []
    if letter.running:
        lines += ["", "Still running:", *(f"    {_running(job)}" for job in letter.running)]
    lines += ["", *_closing(letter)]
    lines += [f"The page: {_link(settings)}"] if settings.page else []
    return "\n".join(lines) + "\n"


def _html(letter: Letter, entries: list[Entry], settings: MailSettings, shown: dict[int, str]) -> str:
    """The HTML. *shown*: the Content-IDs of pictures by job."""
    blocks = []
    for entry in entries:
        colour = "#a4262c" if entry.failed else "#1d6b45" if entry.how.startswith("complete") else "#666666"
        head = escape(entry.head)
        if settings.page:
            head = f'<a href="{escape(_link(settings, entry.job))}" style="color:#1a1a1a">{head}</a>'
        results = "".join(
            f'<div style="color:#333;font-size:14px">{escape(line)}</div>' for line in entry.lines
        )
        if entry.job in shown:
            results += (
                f'<img src="cid:{escape(shown[entry.job])}" alt="Data and fit of job {entry.job}" width="420" '
                'style="width:100%;max-width:420px;height:auto;margin-top:6px;background:#ffffff">'
            )
        blocks.append(
            f'<div style="border-left:4px solid {colour};padding:2px 0 2px 12px;margin:0 0 16px">'
            f'<div style="font-weight:600">{head}</div>'
            f'<div style="color:{colour};font-size:14px">{escape(entry.how)}</div>{results}</div>'
        )
    if letter.more:
        blocks.append(f"<p>{escape(_others(letter))}</p>")
    if letter.running:
        rows = "".join(f"<div>{escape(_running(job))}</div>" for job in letter.running)
        blocks.append(f'<h2 style="font-size:16px;margin:24px 0 8px">Still running</h2>{rows}')
    closing = "".join(f"<div>{escape(line)}</div>" for line in _closing(letter))
    if settings.page:
        closing += f'<div><a href="{escape(_link(settings))}">The page of all jobs</a></div>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><title>PARK</title></head>'
        '<body style="margin:0;background:#ffffff;color:#1a1a1a;font:16px/1.45 system-ui,sans-serif">'
        '<div style="max-width:600px;margin:0 auto;padding:16px;overflow-wrap:anywhere">'
        f'<h1 style="font-size:20px;margin:0 0 16px">{escape(_summary(letter))}</h1>{"".join(blocks)}'
        f'<div style="border-top:1px solid #cccccc;margin-top:24px;padding-top:12px;color:#555;font-size:14px">'
        f"{closing}</div></div></body></html>\n"
    )
