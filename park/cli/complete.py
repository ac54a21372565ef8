"""Completion in shells: the words that may follow.

Jobs, tags, owners and kernels come from the broker, if it answers at once; else nothing is offered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from park.core.server import ServerProxy


#: Seconds that the completion of a word waits for the broker.
BROKER_SECONDS = 1.0
#: The newest jobs are offered, this number of them.
MAX_JOBS_OFFERED = 200
Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def among(words: Iterable[str]) -> Complete:
    """Completes one of these *words*, or the last of several that commas separate."""
    known = tuple(words)

    def complete(ctx: click.Context, param: click.Parameter, given: str) -> list[CompletionItem]:
        return _fitting(given, ((word, "") for word in known))

    return complete


def jobs(ctx: click.Context, param: click.Parameter, given: str) -> list[CompletionItem]:
    """Completes a selector of jobs."""
    return _fitting(given, _ask(ctx, _selectors))


def numbers(ctx: click.Context, param: click.Parameter, given: str) -> list[CompletionItem]:
    """Completes the number of a job."""
    found = ((word, about) for word, about in _ask(ctx, _selectors) if word.isdecimal())
    return _fitting(given, found, several=False)


def tags(ctx: click.Context, param: click.Parameter, given: str) -> list[CompletionItem]:
    """Completes a tag."""
    return _fitting(given, ((tag, "") for tag, _ in _ask(ctx, _tags)), several=False)


def owners(ctx: click.Context, param: click.Parameter, given: str) -> list[CompletionItem]:
    """Completes the name of an owner."""
    found = _ask(ctx, lambda service: ((a.owner, "") for a in service.credits("*")))
    return _fitting(given, found, several=False)


def kernels(ctx: click.Context, param: click.Parameter, given: str) -> list[CompletionItem]:
    """Completes the number of a kernel."""
    return _fitting(given, _ask(ctx, lambda service: ((str(k.kernel), k.host) for k in service.kernels())))


def _fitting(given: str, found: Iterable[tuple[str, str]], several: bool = True) -> list[CompletionItem]:
    """The items that begin with the *given* text, with a word of help each."""
    from click.shell_completion import CompletionItem

    before, comma, begun = given.rpartition(",") if several else ("", "", given)
    return [
        CompletionItem(f"{before}{comma}{word}", help=about or None)
        for word, about in found
        if word.startswith(begun)
    ]


def _ask(
    ctx: click.Context, look: Callable[[ServerProxy], Iterable[tuple[str, str]]]
) -> list[tuple[str, str]]:
    """Words from the broker, with help, if it answers at once; only those that a shell takes as they are."""
    # loaded before the time counts in which the broker is to answer
    import park.core.connect
    import park.net.callers
    import park.table.query
    from park.errors import ParkError

    found: list[tuple[str, str]] = []

    def ask() -> None:
        try:
            found.extend(look(park.core.connect.connect(ctx.params.get("broker"))))
        except (ParkError, OSError):
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(BROKER_SECONDS)
    return [
        (word, about if about.isprintable() else "")
        for word, about in list(found)
        if word.isprintable() and not set(word) & set(" \"'\\$`&|;<>()*?[]{}!#~")
    ]


def _rows(service: ServerProxy) -> list[list[Any]]:
    from park.table.query import Query

    return service.rows(Query(service.user, newest=MAX_JOBS_OFFERED), ["job", "name", "state", "tags"])


def _selectors(service: ServerProxy) -> Iterator[tuple[str, str]]:
    rows = _rows(service)
    for job, name, state, _ in reversed(rows):
        yield str(job), f"{name}, {state}"
    yield from (("last", "your newest"), ("all", "all of yours"))
    for tag in dict.fromkeys(tag for *_, several in rows for tag in several):
        if "," not in tag:  # it would be taken for the end of a selector
            yield f"tag:{tag}", ""


def _tags(service: ServerProxy) -> Iterator[tuple[str, str]]:
    for tag in dict.fromkeys(tag for *_, several in _rows(service) for tag in several):
        yield tag, ""
