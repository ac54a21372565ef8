"""Channels other than mail (Slack, Teams, ntfy, webhooks and many more): their file, and sending with apprise."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from park.errors import InvalidRequest, in_words
from park.model import CHANNEL, is_channel


def private_text(file: Path, what: str) -> str:
    """The text of a file that only this user can read. Raises PermissionError, which names *what* it is."""
    with file.open(encoding="utf-8") as source:
        found = os.fstat(source.fileno())
        if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.getuid():
            raise PermissionError(f"others can read the {what} {file}: chmod 600 {file}")
        return source.read()


def read_channels(file: Path) -> dict[str, str]:
    """The URLs of channels by name, from a TOML file with lines ``name = "url"``. Raises InvalidRequest.

    The URLs hold secrets, so only this user may read the file.
    """
    try:
        import apprise
    except ImportError:
        raise InvalidRequest("channels need apprise: pip install 'park-fit[channels]'") from None
    try:
        found = tomllib.loads(private_text(file, "file of channels"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"channels_file in park.toml: {file}: {in_words(error)}") from error
    for name, url in found.items():
        if not is_channel(f"{CHANNEL}{name}"):
            raise InvalidRequest(
                f"{file}: {name!r:.80} is no name of a channel: it has letters, digits, _ and -"
            )
        if not isinstance(url, str) or not apprise.Apprise().add(url):
            raise InvalidRequest(f"{file}: the URL of {name} is none that apprise knows")
    return found


def tell_channel(url: str, title: str, text: str) -> str:
    """Send a text to a channel. The error in words; "" if the channel has taken it."""
    import apprise

    capture: Any = apprise.LogCapture
    sender = apprise.Apprise()
    if not sender.add(url):
        return "its URL is none that apprise knows"
    with capture(level=apprise.logging.WARNING) as said:
        taken = sender.notify(title=title, body=text, body_format=apprise.NotifyFormat.TEXT)
        lines = said.getvalue().strip().splitlines()
    return "" if taken else f"it takes no message: {(lines or ['no reason was given'])[-1]:.200}"
