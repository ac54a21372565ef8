"""A script's own arguments on the command line: all words behind ``--``, or, as bumps has it, those after ``--args``."""

from __future__ import annotations

import re
import shlex

import click

#: A word that is no option: negative numbers are none.
_VALUE = re.compile(r"[^-]|-$|-\.?\d|$")


class WithArguments(click.Command):
    """A command whose parameter *args* is what it passes on to a script."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, found = args, None
        try:
            own, found = divided(args)
        except click.UsageError:
            if not ctx.resilient_parsing:  # a shell completes what is not whole
                raise
        try:
            rest = super().parse_args(ctx, own)
        except click.MissingParameter:
            if not found:
                raise
            text = (
                "nothing to run is named: what follows -- or --args are the arguments of a script, all of it"
            )
            raise click.UsageError(text, ctx) from None
        ctx.params["args"] = tuple(found or ())
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARG...]"]


def divided(words: list[str]) -> tuple[list[str], list[str] | None]:
    """The command's own words, and the script's; None: nothing is said of these. Raises click.UsageError.

    >>> divided(["peak.py", "--wait", "--", "200", "--fast"])
    (['peak.py', '--wait'], ['200', '--fast'])
    """
    at = words.index("--") if "--" in words else len(words)
    own, found = _as_bumps(words[:at])
    if at == len(words):
        return own, found
    if found is not None:
        raise click.UsageError("the arguments of a script follow -- or --args, not both")
    return own, words[at + 1 :]


def _as_bumps(words: list[str]) -> tuple[list[str], list[str] | None]:
    """The arguments behind ``--args``: its words go on to the next option, and one text may hold several.

    >>> _as_bumps(["peak.py", "--args", "200", "-5", "--wait"]), _as_bumps(["--args=ackley 2", "model.py"])
    ((['peak.py', '--wait'], ['200', '-5']), (['model.py'], ['ackley', '2']))
    """
    begins = [i for i, word in enumerate(words) if word == "--args" or word.startswith("--args=")]
    if not begins:
        return words, None
    if len(begins) > 1:
        raise click.UsageError("--args is there twice: give all arguments after one of them")
    at = begins[0]
    end = at + 1
    if words[at] == "--args":
        while end < len(words) and _VALUE.match(words[end]):
            end += 1
        found = words[at + 1 : end]
    else:
        found = [words[at].removeprefix("--args=")]
    if len(found) == 1:
        try:
            found = shlex.split(found[0])
        except ValueError as error:
            raise click.UsageError(f"--args {found[0]!r} is no list of words: {error}") from None
    return [*words[:at], *words[end:]], found
