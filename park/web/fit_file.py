"""The numbers of a fit as its own process has written them: the job's file ``fit.json``.

It is plain JSON, so reading it runs nothing of the job. It may still be anything: the job's code can write any file. The
page's scripts take what has the expected form and show it as text and lines.
"""

from __future__ import annotations

from typing import Any

from msgspec import DecodeError, json

from park.text import visible

NAME = "fit.json"
#: A larger file is not shown, but can still be downloaded.
MAX_BYTES = 16 << 20
_MAX_LEVELS = 12


def read(data: bytes) -> dict[str, Any] | None:
    """The content of the file, with all its texts visible; None where it is no JSON object of a fit, or too large."""
    if len(data) > MAX_BYTES:
        return None
    try:
        found = json.decode(data)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("format") != 1:
        return None
    return _shown(found, _MAX_LEVELS)  # type: ignore[no-any-return]


def _shown(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return visible(value, lines=True)
    if isinstance(value, dict):
        return {visible(name): _shown(item, levels - 1) for name, item in value.items()} if levels else {}
    if isinstance(value, list):
        return [_shown(item, levels - 1) for item in value] if levels else []
    return value
