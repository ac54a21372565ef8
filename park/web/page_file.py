"""The private file of each page that runs: with it another process of the same user gets a new address of the page.

Each page writes a private file with its port and a secret. Only the same Unix user can read the
file. The page answers the secret with a new one-time token.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from msgspec import DecodeError, Struct, ValidationError, json

from park.errors import Refused

#: The header that carries the secret.
HEADER = "x-park-page"
#: Seconds for which an answer is waited for.
ANSWER_SECONDS = 5.0


class PageFile(Struct, frozen=True):
    """The content of the file. *place*: the broker that the page shows; "": the local service of process *pid*."""

    pid: int
    port: int
    secret: str
    place: str


def folder() -> Path:
    """The private folder of these files. Raises Refused for a folder of another user."""
    where = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    found = Path(where) / f"park-web-{os.getuid()}"
    found.mkdir(mode=0o700, exist_ok=True)
    status = found.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Refused(f"{found} is open to others, or belongs to another user: remove it")
    return found


@contextlib.contextmanager
def written(page: PageFile) -> Iterator[None]:
    """The file of *page* exists while the ``with`` lasts. A page without a place for the file works too."""
    file: Path | None = None
    try:
        file = folder() / f"{page.port}.json"
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(json.encode(page))
    except (OSError, Refused, AttributeError):  # Windows has no getuid
        file = None
    try:
        yield
    finally:
        if file is not None:
            file.unlink(missing_ok=True)


def pages() -> list[PageFile]:
    """The pages of this user that run on this machine, as their files say."""
    found = []
    try:
        files = sorted(folder().glob("*.json"))
    except (OSError, Refused, AttributeError):
        return []
    for file in files:
        with contextlib.suppress(OSError, DecodeError, ValidationError):
            page = json.decode(file.read_bytes(), type=PageFile)
            if Path(f"/proc/{page.pid}").exists() or not Path("/proc/self").exists():
                found.append(page)
    return found


def new_address(page: PageFile) -> str | None:
    """A new address of the page; None where no page answers."""
    base = f"http://127.0.0.1:{page.port}"
    request = Request(f"{base}/token", data=b"", headers={HEADER: page.secret}, method="POST")
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=ANSWER_SECONDS) as answer:
            return f"{base}/login?token={json.decode(answer.read(1000))['token']}"
    except (URLError, OSError, DecodeError, KeyError, TypeError):
        return None
