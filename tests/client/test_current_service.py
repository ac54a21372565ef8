"""The service that is meant where none is named: blocks of threads and tasks, and what is open in the process."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import park
from park.core import server
from park.core.server import Server, ServerProxy, local_service, service_stack
from park.core.service_stack import ServiceStack


def services(count: int) -> list[Any]:
    """*count* services over the local one, which is not started for them."""
    return [ServerProxy(park.local_service) for _ in range(count)]


def test_the_names_are_those_of_one_thing() -> None:
    assert local_service is park.local_service
    assert server.default_service is park.default_service
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        server.nothing  # noqa: B018


def test_every_with_goes_through_the_stack() -> None:
    (service,) = services(1)
    before = len(service_stack)
    with service as entered:
        assert entered is service is service_stack.current is park.default_service()
        assert list(service_stack)[before:] == [service]
        with service_stack.push(local_service):
            assert park.default_service() is local_service
        assert park.default_service() is service
    assert len(service_stack) == before


def test_the_innermost_counts_then_the_newest_that_is_open() -> None:
    first, second, third = services(3)
    stack = ServiceStack()
    assert stack.current is None
    for each in (first, second):
        stack.opened(each)
    assert (stack.current, len(stack)) == (second, 0)
    with stack.push(first) as pushed:
        assert pushed is stack.current is first
        stack.opened(third)  # a connection inside a block takes nothing away from it
        assert stack.current is first
    assert stack.current is third
    for closed, left in ((third, second), (second, first), (first, None), (first, None)):
        stack.closed(closed)
        assert stack.current is left


def test_what_was_pushed_is_popped_once() -> None:
    first, second = services(2)
    stack = ServiceStack()
    stack.push(first)
    stack.push(second)
    assert stack.pop(first) is first  # not the innermost
    assert stack.pop() is second
    with pytest.raises(park.ParkError, match="in no `with service:` block"):
        stack.pop()
    assert stack.current is None


def test_another_thread_finds_what_is_open_and_has_blocks_of_its_own() -> None:
    first, second = services(2)
    stack = ServiceStack()

    def elsewhere() -> list[Any]:
        found = [stack.current]
        with stack.push(second):
            found.append(stack.current)
        return [*found, stack.current]

    with stack.push(first), ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() == [first, second, first]
        assert stack.current is first


def test_a_block_that_ends_in_another_context_ends_for_the_process() -> None:
    (service,) = services(1)
    there = contextvars.copy_context()
    there.run(service.__enter__)
    assert service_stack.current is service
    service.__exit__(None, None, None)
    assert service_stack.current is not service


def test_a_service_of_ones_own_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Server):
        """A service that does nothing."""

    monkeypatch.setattr(Mine, "__abstractmethods__", frozenset())
    with Mine() as mine:  # type: ignore[abstract]
        assert park.default_service() is mine
