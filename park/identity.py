"""The user of this process: a name for people, the tag of new jobs, and an address for mail, from the environment."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping

from park.errors import InvalidRequest
from park.model import notify_words, owner_name, texts


def usertag(environment: Mapping[str, str] | None = None) -> str:
    """The name of this user, for people: PARKTAG, the user part of PARKMAIL, LOGNAME, USERNAME, or the host's name.

    Raises InvalidRequest where that is longer than 200 bytes.

    >>> usertag({"PARKMAIL": "ada@example.org"})
    'ada'
    """
    env = os.environ if environment is None else environment
    mail = env.get("PARKMAIL", "").partition("@")[0]
    logname, username = env.get("LOGNAME", ""), env.get("USERNAME", "")
    names = (
        env.get("PARKTAG", ""),
        mail,
        logname if logname != "root" else "",
        username if username not in ("Administrator", "root") else "",
        platform.node(),
    )
    return owner_name(next((name for name in names if name), "somebody"))


def own_tags() -> list[str]:
    """The `usertag` as the tag of a request, if it can be one."""
    with contextlib.suppress(InvalidRequest):
        return list(texts(usertag(), "tag"))
    return []


def own_notify(environment: Mapping[str, str] | None = None) -> str:
    """The *notify* that PARKMAIL stands for: an address, and when behind a blank. "": it is not set, or is no address."""
    with contextlib.suppress(InvalidRequest):
        return notify_words((os.environ if environment is None else environment).get("PARKMAIL", ""))
    return ""
