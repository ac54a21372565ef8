"""The reason why a job waits: a record that travels beside the sentence, and the words for each cause."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.model import JobRecord
from park.wait_reason import Cause, WaitReason, announcement, words
from park.wire import codec

WAITS = sorted(set(Cause) - {Cause.NONE, Cause.STATED, Cause.ENDING})
names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=9)
counts = st.integers(0, 2**40)
reasons = st.builds(
    WaitReason,
    cause=st.sampled_from(list(Cause)),
    name=names,
    job=counts,
    state=names,
    count=counts,
    pause=names,
    pythons=st.lists(names, max_size=3).map(tuple),
    largest=counts,
    running=counts,
    share=st.floats(0, 1),
    slots=counts,
    broke=names,
    seconds=st.none() | st.floats(0, 1e9),
    disk=names,
    holder=counts,
    holder_seconds=st.floats(0, 1e9),
)


@given(reasons)
def test_a_reason_survives_the_wire_beside_a_record_that_ignores_it(reason: WaitReason) -> None:
    sent = JobRecord(7, "ada", reason=words(reason)).as_map() | {"wait": reason.as_map()}
    came = codec.unpack(codec.pack(sent))
    assert WaitReason.beside(came) == reason
    assert JobRecord.from_map(came) == JobRecord(7, "ada", reason=words(reason))


@pytest.mark.parametrize("more", [{}, {"wait": {"cause": "a cause of a later release", "job": 3}}])
def test_the_sentence_counts_where_the_fields_say_nothing(more: dict[str, Any]) -> None:
    assert WaitReason.beside({"reason": "waits for rain"} | more) == WaitReason(
        Cause.STATED, "waits for rain"
    )
    assert WaitReason.beside({"reason": ""} | more) == WaitReason(Cause.NONE)


@pytest.mark.parametrize("cause", WAITS)
def test_each_cause_has_words_of_its_own(cause: Cause) -> None:
    others = {words(WaitReason(other, "x", 3, "queued", 2)) for other in WAITS if other is not cause}
    text = words(WaitReason(cause, "x", 3, "queued", 2))
    assert text
    assert text not in others
    assert announcement(7, WaitReason(cause, "x", 3)).startswith("job 7 waits")


@given(reasons)
def test_a_reason_is_like_itself_whatever_its_numbers(reason: WaitReason) -> None:
    other = WaitReason(reason.cause, reason.name, broke=reason.broke, disk=reason.disk, holder=reason.holder)
    assert reason.is_like(other)
    assert not reason.is_like(None)


def test_a_job_that_is_ending_does_not_wait() -> None:
    reason = WaitReason(Cause.ENDING, "it ran for as long as it may")
    assert announcement(7, reason) == "job 7 ends: it ran for as long as it may"


def test_a_job_for_an_allocation_waits_for_no_inputs() -> None:
    text = announcement(7, WaitReason(Cause.INPUTS, job=7))
    assert text == "job 7 waits for the end of the script whose allocation it stands for"
