"""Completion in shells: ``park completion bash`` prints what the shell is to read, and what is completed is below.

Jobs, tags, owners and kernels come from the broker, if one answers at once; where none does nothing is said.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from park.core.server import ServerProxy

#: Seconds that somebody who has pressed Tab waits for the broker.
PATIENCE = 1.0
#: Jobs that are looked at, the newest.
MOST = 200

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete all of this.

    Commands, options, the numbers and tags of jobs, owners and kernels.

    \b
    bash, in ~/.bashrc:                     eval "$(park completion bash)"
    zsh, in ~/.zshrc:                       eval "$(park completion zsh)"
    fish, in ~/.config/fish/config.fish:    park completion fish | source
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    if shell == "bash":  # it would take the colon of tag:x for the end of a word
        click.echo('COMP_WORDBREAKS="${COMP_WORDBREAKS//:/}"')
    click.echo(made(ctx.find_root().command, {}, "park", "_PARK_COMPLETE").source())


# -- what is completed -------------------------------------------------------------------------------


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
    """Those that go on with what is *given*, with a word of help each."""
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
    """What the broker knows, if it says so at once: words that a shell takes as they are, with help."""
    # loaded before the time counts in which the broker is to answer
    import park.search
    import park.service
    import park.util.sockets
    from park.errors import ParkError

    found: list[tuple[str, str]] = []

    def ask() -> None:
        try:
            found.extend(look(park.service.connect(ctx.params.get("broker"))))
        except (ParkError, OSError):
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return [
        (word, about if about.isprintable() else "")
        for word, about in list(found)
        if word.isprintable() and not set(word) & set(" \"'\\$`&|;<>()*?[]{}!#~")
    ]


def _rows(service: ServerProxy) -> list[list[Any]]:
    from park.search import Query

    return service.rows(Query(service.user, newest=MOST), ["job", "name", "state", "tags"])


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
