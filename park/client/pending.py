"""Requests that the broker has not answered yet.

A request is kept until its answer is complete, and is sent again when the broker comes back. That is safe, because each
request carries a key, or has the same effect when it is sent twice.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import NamedTuple

from park.client.outgoing import Outgoing
from park.errors import REFUSALS, ParkError
from park.net.reactor import Reactor
from park.wire import codec, messages
from park.wire.messages import Message
from park.wire.pack import Buffer

#: Answers that are the last of their request.
LAST_ANSWERS = (
    messages.Accepted,
    messages.Done,
    messages.Dropped,
    messages.Failure,
    messages.Fetched,
    messages.Records,
    messages.Filed,
    messages.Header,
    messages.Welcome,
)


def refusal(
    message: messages.Failure | messages.MapFailed, unknown: type[ParkError] = ParkError
) -> ParkError:
    """The error in a refusal of the broker; of the class *unknown* if this release does not know its name."""
    return REFUSALS.get(message.error, unknown)(message.text)


class Reply:
    """The answer to a request: all its messages, the last one last. Threads wait for it with `wait`."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._lock = threading.Lock()
        self._lock.acquire()
        self._finished = False
        self.messages: list[tuple[Message, Buffer]] = []
        self.error: BaseException | None = None
        #: called once, in the reactor's loop
        self.on_finish: Callable[[], None] | None = None

    def finish(self) -> None:
        """The answer is complete: end the waits for it."""
        if not self._finished:
            self._finished = True
            self._lock.release()
            if self.on_finish is not None:
                self.on_finish()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the answer came within *timeout* seconds (None: no limit)."""
        if not self._finished:
            if not self._reactor.attend(self._lock, timeout):
                return False
            self._lock.release()  # wakes other threads that wait; a later `wait` does not take the lock
        return True

    def value(self) -> tuple[Message, Buffer]:
        """The last message and its payload. Raises the error that the broker refused with."""
        if self.error is not None:
            raise self.error
        message, data = self.messages[-1]
        if isinstance(message, messages.Failure):
            raise refusal(message)
        return message, data


class Question(NamedTuple):
    """A request as it was sent. *code*: a hash and a blob that the broker must have before it."""

    message: Message
    data: Buffer
    code: tuple[bytes, Buffer] | None
    reply: Reply


class Pending:
    """The requests of a link that wait for an answer, by number."""

    def __init__(self, reactor: Reactor, out: Outgoing) -> None:
        self._reactor = reactor
        self._out = out
        self._numbers = itertools.count(1)
        self._questions: dict[int, Question] = {}

    def __len__(self) -> int:
        return len(self._questions)

    def __contains__(self, number: int) -> bool:
        return number in self._questions

    def next_number(self) -> int:
        """A number for a request that was not used before."""
        return next(self._numbers)

    def ask(
        self, number: int, message: Message, data: Buffer = b"", code: tuple[bytes, Buffer] | None = None
    ) -> Reply:
        """Keep the request and send it, now or when the broker is back."""
        reply = Reply(self._reactor)
        if code is not None:
            self._out.ship(*code)
        if self._out.live:
            self._out.send(message, data)
        else:
            codec.encode(
                message, data
            )  # a message that cannot be encoded raises now, and not when the broker is back
        self._questions[number] = Question(message, data, code, reply)
        return reply

    def answer(self, number: int, message: Message, data: Buffer) -> None:
        """A message has come in reply to this request."""
        question = self._questions.get(number)
        if question is not None:
            question.reply.messages.append((message, data))
            if isinstance(message, LAST_ANSWERS):
                del self._questions[number]
                question.reply.finish()

    def forget(self, reply: Reply) -> None:
        """The answer is not wanted any more."""
        for number, question in list(self._questions.items()):
            if question.reply is reply:
                del self._questions[number]
                self._out.send(messages.Forget(number))

    def renumber(self, old: int, number: int, message: Message) -> None:
        """Ask *message* instead, under another number; it is not sent here."""
        self._questions[number] = self._questions.pop(old)._replace(message=message)

    def message(self, number: int) -> Message:
        """The request of this number."""
        return self._questions[number].message

    def send_again(self, code: bytes | None = None) -> None:
        """Send all requests again, or those alone that need this *code*."""
        for message, data, needed, _ in list(self._questions.values()):
            if code is not None and (needed is None or needed[0] != code):
                continue
            if needed is not None:
                self._out.ship(*needed)
            self._out.send(message, data)

    def fail(self, error: ParkError) -> None:
        """All requests end with this *error*."""
        for question in self._questions.values():
            question.reply.error = error
            question.reply.finish()
        self._questions.clear()

    def awaited_job(self) -> int:
        """The job whose end has been waited for longest; 0: none."""
        for question in self._questions.values():
            if isinstance(question.message, messages.Fetch) and question.message.wait:
                return question.message.job
        return 0
