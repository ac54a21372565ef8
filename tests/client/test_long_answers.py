"""The wait for an answer goes on while pieces of a long message go out or come in."""

from __future__ import annotations

from typing import Any

import pytest

from park.client import link
from park.client.link import Link
from park.net.inproc import InprocRouter
from park.net.reactor import Reactor


class Slow:
    """An answer that comes at the last of some waits; meanwhile *moves* pieces of messages have gone."""

    def __init__(self, line: Any, waits: int, moves: int) -> None:
        self._line, self._left, self._moves = line, waits, moves

    def wait(self, seconds: float) -> bool:
        assert seconds == link.ANSWER_SECONDS
        self._left -= 1
        if self._moves:
            self._moves -= 1
            self._line.moved += 1
        return self._left == 0


@pytest.mark.parametrize(("moves", "comes"), [(9, True), (4, False), (0, False)])
def test_time_counts_from_the_last_piece(moves: int, comes: bool) -> None:
    line: Any = InprocRouter().connect()
    reactor = Reactor()
    made = Link(reactor, line, lambda: pytest.fail("nothing asks for the table"), "me", "the broker")
    assert made.is_answered(Slow(line, 10, moves)) is comes  # type: ignore[arg-type]
    reactor.stop()
