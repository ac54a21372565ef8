"""Mails about ended jobs: the transaction that ends a job writes its news, and `Notices` says when a letter is due."""

from __future__ import annotations

from itertools import islice
from typing import Any

from park.broker.accounts.ledger import MICRO
from park.broker.effects import Effects, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.state import MAX_REASON_CHARS, State
from park.errors import InvalidRequest
from park.mail.notices import MAX_LISTED_NOTICES, Letter, MailTally, Notice, ranges
from park.model import is_channel, split_notify
from park.wire import codec

#: Running jobs that a letter lists.
MAX_LISTED_RUNNING = 20


def check_channel(state: State, notify: str) -> None:
    """Raises InvalidRequest where the request names a channel that this broker does not have."""
    address, _ = split_notify(notify)
    if (
        is_channel(address)
        and (policy := state.notices.policy) is not None
        and (text := policy.refusal(address))
    ):
        raise InvalidRequest(text)


def note_end(state: State, effects: Effects, job: BrokerJob) -> None:
    """Keep the news of a job that has ended, if its request asks for mail and this broker sends mail."""
    if state.notices.policy is None or job.session or not job.submit.notify:
        return
    address, when = split_notify(job.submit.notify)
    if when == "never" or state.notices.policy.refusal(address):
        return
    facts = job.record
    notice = Notice(
        job.number,
        job.owner,
        address,
        when,
        str(facts.state),
        facts.name,
        facts.reason[:MAX_REASON_CHARS],
        facts.started,
        effects.wall,
        facts.done,
        facts.failed,
        facts.total,
        facts.seconds,
    )
    if notice.wanted:
        state.notices.add(notice, effects.now)
        effects.writes.append(Write("mail", ("notice", job.number), codec.pack(notice.as_map())))


def write_letters(state: State, effects: Effects) -> None:
    """Write the letters that are due. The same transaction deletes the news in them."""
    notices = state.notices
    for owner, address, kind in notices.due(state.wall):
        taken = sorted(notices.take(owner, address, kind), key=lambda notice: notice.state != "failed")
        others = taken[MAX_LISTED_NOTICES:]
        assert notices.policy is not None
        letter = Letter(
            notices.new_number(),
            owner,
            address,
            kind,
            notices.policy.local(state.wall).date().isoformat(),
            state.wall,
            tuple(notice.as_map() for notice in taken[:MAX_LISTED_NOTICES]),
            len(others),
            tuple(islice(_running(state, owner), MAX_LISTED_RUNNING)),
            _credits(state, owner),
            ranges(notice.job for notice in others),
            sum(notice.state == "failed" for notice in taken),
        )
        tally = notices.count(letter)
        effects.writes += [Write("mail", ("notice", notice.job), None) for notice in taken]
        effects.writes += [
            Write("mail", ("letter", letter.number), codec.pack(letter.as_map())),
            Write("mail", ("tally", owner), codec.pack(tally.as_map())),
        ]
        effects.letters.append(letter)
    notices.set_look(effects.now)


def forget_letters(state: State, effects: Effects, numbers: list[int]) -> None:
    """Delete letters that the SMTP server has taken or has refused for good."""
    for number in numbers:
        if state.notices.letters.pop(number, None) is not None:
            effects.writes.append(Write("mail", ("letter", number), None))


def restore(state: State, kind: str, key: int | bytes | str, value: dict[str, Any], now: float) -> None:
    """A record of an earlier life."""
    notices = state.notices
    if kind == "notice":
        notices.add(Notice.from_map(value), now)
    elif kind == "letter":
        letter = Letter.from_map(value)
        notices.letters[letter.number] = letter
    else:
        notices.tallies[str(key)] = MailTally.from_map(value)


def _running(state: State, owner: str) -> Any:
    """The jobs of the owner that run, as maps. *left*: estimated seconds until the end; None: not known."""
    for job in state.jobs.values():
        if job.owner == owner and job.running and not job.session and not job.ended:
            started, part = job.facts.started, job.record.how_far.fraction
            left = (state.wall - started) * (1 - part) / part if started and part > 0.05 else None
            yield {"job": job.number, "name": job.facts.name, "part": part, "left": left}


def _credits(state: State, owner: str) -> float | None:
    account = state.ledger.accounts.get(owner) if state.ledger.policy is not None else None
    return None if account is None else account.balance / MICRO
