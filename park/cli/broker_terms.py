"""The terms of a broker, out of the configuration (`park.config`): credits, limits, retention, mail."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from park.broker.accounts.ledger import CreditPolicy, Terms
from park.broker.accounts.quotas import LimitPolicy, Limits
from park.broker.entities.archive import RetentionPolicy
from park.config import Tables, read
from park.errors import InvalidRequest
from park.mail.notices import MailPolicy
from park.mail.settings import MAIL_DEFAULTS, MailSettings
from park.model import duration, memory_bytes


def credit_policy(environment: Mapping[str, str] | None = None) -> CreditPolicy:
    """The terms of credit that are configured. Raises InvalidRequest, which names the file and the key."""
    credits = read(os.environ if environment is None else environment).get("credits", {})
    owners = credits.pop("owners", {})
    return CreditPolicy(Terms(**credits), {name: Terms(**(credits | own)) for name, own in owners.items()})


def limit_policy(environment: Mapping[str, str] | None = None) -> LimitPolicy:
    """The limits of owners that are configured. Raises InvalidRequest, which names the file and the key."""
    limits = read(os.environ if environment is None else environment).get("limits", {})
    owners = limits.pop("owners", {})
    return LimitPolicy(_limits(limits), {name: _limits(limits | own) for name, own in owners.items()})


def _limits(given: Tables) -> Limits:
    return Limits(**{k: memory_bytes(v) if k == "bytes" else v for k, v in given.items()})


def keep_policy(given: Iterable[str]) -> RetentionPolicy:
    """The retention of ended jobs: ages such as 30d, and sizes such as 10GB, at most one of each.

    >>> keep_policy(["30d", "10 GB"])
    RetentionPolicy(age=2592000.0, size=10000000000, jobs=10000)
    """
    found: dict[str, Any] = {}
    for text in given:
        kind = "size" if text.strip().endswith("B") else "age"
        if kind in found:
            raise InvalidRequest(f"--keep {text}: there is another {kind} already; give one age and one size")
        if re.fullmatch(r"[\s\d.]*", text):
            raise InvalidRequest(
                f"--keep {text!r} needs a unit: an age such as 30d or 12h, or a size such as 10GB"
            )
        found[kind] = memory_bytes(text) if kind == "size" else duration(text, "--keep")
    return RetentionPolicy(**found)


def mail_settings(environment: Mapping[str, str] | None = None) -> MailSettings | None:
    """The settings of mails about ended jobs; None: there is no [mail]. Raises InvalidRequest."""
    mail = read(os.environ if environment is None else environment).get("mail", {})
    if not mail:
        return None
    file = mail.pop("channels_file", "")
    ways = sum(bool(mail.get(key)) for key in ("host", "sendmail"))
    if not mail.get("sender") or not (ways == 1 or (ways == 0 and file)):
        raise InvalidRequest(
            "[mail] in park.toml needs a sender, and either host (a server) or sendmail (a program), or channels_file"
        )
    channels = {}
    if file:
        from park.mail.channels import read_channels

        channels = read_channels(Path(file).expanduser())
    has_addresses = bool(mail.setdefault("host", "") or mail.get("sendmail"))
    hour, minute = map(int, str(mail.pop("digest", MAIL_DEFAULTS["digest"])).split(":"))
    zone, limit = mail.pop("zone", ""), mail.pop("limit", MailPolicy().limit)
    policy = MailPolicy(hour, minute, zone, limit, has_addresses, tuple(sorted(channels)))
    return MailSettings(policy=policy, channels=channels, **mail)
