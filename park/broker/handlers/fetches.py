"""Answers to Fetch: the results, the request and the record of a job.

A job may have very many results, so a long answer goes in slices, and the broker handles other events between two
slices. While a peer reads too slowly, its answer does not go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from msgspec.structs import replace

from park.broker.accounts.budgets import MAX_ANSWER_SLICE
from park.broker.effects import Effects, Ref
from park.broker.entities.jobs import BrokerJob, LongAnswer, Waiter
from park.broker.entities.roster import Client, Member
from park.broker.handlers.explain import explainer
from park.broker.state import State
from park.wait_reason import words
from park.wire import codec, messages


def answer(state: State, effects: Effects, job: BrokerJob, w: Waiter) -> None:
    """Send a Fetch its results, its request and the record of the job; the end of a long answer follows later."""
    _drop(state, w.key)  # it is asked again, over a new connection
    if len(job.results) + (len(job.root.segments) if job.root is not None else 0) > MAX_ANSWER_SLICE:
        w.member.long_answers += 1
        state.deferred.long_answers[w.key] = LongAnswer(job, w, _parts(state, job, w))
    else:
        for part in _parts(state, job, w):
            effects.answer(w.member.peer, *part)


def go_on(state: State, effects: Effects) -> None:
    """Send the next slice of one long answer. The next call sends one of another answer."""
    found = next(filter(_is_wanted, state.deferred.long_answers.values()), None)
    if found is not None:
        w = found.waiter
        slice_ = list(islice(found.parts, MAX_ANSWER_SLICE))
        for part in slice_:
            effects.answer(w.member.peer, *part)
        if len(slice_) == MAX_ANSWER_SLICE:
            state.deferred.long_answers[w.key] = state.deferred.long_answers.pop(w.key)
        else:
            _drop(state, w.key)


def is_due(state: State) -> bool:
    """Whether a long answer can go on now."""
    return any(map(_is_wanted, state.deferred.long_answers.values()))


def _is_wanted(found: LongAnswer) -> bool:
    member = found.waiter.member
    return not (isinstance(member, Client) and member.slow)


def forget(state: State, member: Member, attempt: int, number: int) -> int | None:
    """Forget a fetch that waits or whose answer is under way. Returns the job for whose end it waited; None: it did not
    wait.
    """
    _drop(state, (id(member), attempt, number))
    return member.fetches.pop((attempt, number), None)


def forget_all(state: State, member: Member) -> None:
    """Give a member no more of its long answers."""
    for key in [key for key, found in state.deferred.long_answers.items() if found.waiter.member is member]:
        _drop(state, key)


def _drop(state: State, key: tuple[int, int, int]) -> None:
    found = state.deferred.long_answers.pop(key, None)
    if found is not None:
        found.waiter.member.long_answers -= 1


def end(state: State, effects: Effects, job: BrokerJob) -> None:
    """The job is deleted: its long answers end with a failure."""
    for found in [a for a in state.deferred.long_answers.values() if a.job is job]:
        w = found.waiter
        _drop(state, w.key)
        text = f"job {job.number} was deleted while it was read"
        effects.answer(w.member.peer, messages.Failure(w.id, "UnknownJob", text, w.attempt))


def _parts(state: State, job: BrokerJob, w: Waiter) -> Iterator[tuple[Any, ...]]:
    """The messages of an answer, each with the `Ref` of its payload; the record comes last.

    The lists of results and inputs are not copied, because they may only grow between two messages.
    """
    root, request = job.root, w.request and not job.session
    for index in count(0) if w.results else ():
        if index >= len(job.results):
            break
        start, units = job.results[index]
        results = messages.Results(start, units, job=job.number, attempt=w.attempt, reply=w.id)
        yield results, Ref("results", (job.number, start))
    if request:
        yield messages.Blob(job.submit.body, w.id), Ref("blob", (job.submit.body,))
    if request and root is not None and not job.submit.once:
        start = 0
        while units := root.segments.get(start, 0):
            inputs = messages.Units(start, units, closed=True, job=job.number, id=w.id)
            yield inputs, Ref("units", (job.number, start))
            start += units
    fields = codec.fields(job.submit) if request else {}
    record = job.record
    if not record.state.ended:
        record = replace(record, reason=words(explainer(state)(job.number)))
    yield (messages.Fetched(w.id, record.as_map(), fields, w.attempt, once=job.submit.once),)
