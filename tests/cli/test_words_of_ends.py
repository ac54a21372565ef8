"""Sentences that say how a job has ended say no word twice."""

from __future__ import annotations

import re

import pytest

from park.cli.commands.waiting import tell_end
from park.errors import Busy, JobAborted, JobFailed, Refused, StoreError, in_words
from park.model import JobRecord, JobState

CAUSES = {
    JobState.ABORTED: [
        "",
        "aborted by its owner",
        "aborted: it went on for 10 s",
        "its client has left",
        "Aborted",
    ],
    JobState.FAILED: ["failed: no room", "Failed", "unit 3: ValueError: no number", "failure of a disk"],
}


@pytest.mark.parametrize(("state", "cause"), [(state, cause) for state in CAUSES for cause in CAUSES[state]])
def test_the_cause_of_an_end_does_not_begin_with_the_end(
    state: JobState, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_end(JobRecord(1, "ada", state=state, reason=cause))
    error = JobAborted(1, cause) if state is JobState.ABORTED else JobFailed(1, cause)
    for text in (capsys.readouterr().err, str(error)):
        assert not re.search(r"\b(\w+):? \1\b", text, re.IGNORECASE), text
        assert cause[-4:].casefold() in text.casefold()


@pytest.mark.parametrize(
    "error", [Busy("busy: 256 MB wait"), Refused("refused"), StoreError("the disk is full")]
)
def test_nor_does_the_text_of_an_error_begin_with_its_class(error: Exception) -> None:
    assert not re.search(r"\b(\w+):? \1\b", in_words(error), re.IGNORECASE)
