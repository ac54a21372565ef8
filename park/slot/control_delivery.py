"""Controls on their way to a body: ``on_<kind>(message)`` is called at its safe points.

A control is a dict with a ``kind``. Each process that runs units of a job's root map gives its body all controls in
their order: between units, in ``env.ready()``, and when a map of the body has ended. A body that runs once gets them
after it has begun. Only one control is handled at a time. The error of a control goes to the job's stream, and the job
goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from park.body import payload
from park.body.causes import one_line
from park.errors import InvalidRequest
from park.slot.body_publisher import BodyPublisher
from park.slot.frame import Frame
from park.slot.unit_results import FailingBody, trace_of
from park.slot.user_code import UserCode
from park.wire import messages
from park.wire.control_queue import ControlQueue
from park.wire.pack import Buffer


class ControlDelivery:
    """The delivery of controls to bodies. *stack*: the frames of the process."""

    def __init__(self, stack: list[Frame], user_code: UserCode, publisher: BodyPublisher) -> None:
        self._stack = stack
        self._user_code = user_code
        self._publisher = publisher
        self._controls = ControlQueue()
        #: the last control that each job's body has had
        self._served: dict[int, int] = {}
        #: a control may wait that the body on top of the stack has not had
        self._pending = False

    @property
    def pending(self) -> bool:
        """Whether the body on top of the stack may have a control to come."""
        return self._pending

    def keep(self, message: messages.Control, data: Buffer) -> None:
        """A control has come."""
        self._controls.keep(message.job, message.seq, data)
        self._pending = True

    def begin(self, run: messages.Run) -> None:
        """A chunk of a job's own units begins: its body may not have had all controls."""
        self._served.setdefault(run.job, run.served)
        self._pending = True

    def restart(self, job: int, served: int) -> None:
        """Note that the job's body is made anew; its state includes the controls up to *served*."""
        self._served[job] = served

    def restored(self, job: int, served: int) -> None:
        """Note that the job's body goes on from a checkpoint, which includes the controls up to *served*."""
        self._served[job] = served
        self._pending = True

    def served(self, job: int) -> int:
        """The last control that the job's body has had."""
        return self._served.get(job, 0)

    def drop(self, job: int, served: int) -> None:
        """A checkpoint on disk includes the controls up to *served*."""
        self._controls.drop(job, served)

    def forget(self, job: int) -> None:
        """The job has ended."""
        self._controls.forget(job)
        self._served.pop(job, None)

    def deliver(self) -> None:
        """The body on top of the stack is at a safe point: give it the controls that wait."""
        if not self._pending:
            return
        frame = self._stack[-1]
        body, job = frame.body, frame.run.job
        if not frame.run.stored or frame.in_control or body is None or isinstance(body, FailingBody):
            return
        with self._user_code.paused:
            frame.in_control = True
            try:
                self._pending = False
                while waiting := self._controls.after(job, self._served[job]):
                    for seq, data in waiting:
                        self._served[job] = seq
                        self._give(frame, seq, data)
            finally:
                frame.in_control = False

    def _give(self, frame: Frame, seq: int, data: Buffer) -> None:
        """Give the body one control."""
        frame.raise_abort()
        try:
            message = _message(data)
            method = _method(frame.body, message["kind"])
        except InvalidRequest as error:
            self._publisher.report_control_error(frame, seq, str(error))
            return
        try:
            with self._user_code.running:
                method(message)
        except InvalidRequest as error:
            text = f"the control {message['kind']!r} was refused: {error}"
            self._publisher.report_control_error(frame, seq, text)
        except BaseException as error:
            self._user_code.raise_own(error)
            self._publisher.streams[1].write(trace_of(error))
            text = f"on_{message['kind']} raised {one_line(error)}"
            self._publisher.report_control_error(frame, seq, text)


def _message(data: Buffer) -> dict[str, Any]:
    """The control. Raises InvalidRequest."""
    try:
        message = payload.loads(data)
    except Exception as error:
        raise InvalidRequest(f"a control cannot be read here: {one_line(error)}") from error
    match message:
        case {"kind": str()}:
            return dict(message)
        case _:
            raise InvalidRequest(f"{message!r:.200} is no control: a dict with a 'kind' is one")


def _method(body: Any, kind: str) -> Callable[[dict[str, Any]], Any]:
    """The body's method for controls of this kind. Raises InvalidRequest."""
    method = getattr(body, f"on_{kind}", None) if hasattr(body, "run") else None
    if callable(method):
        return method  # type: ignore[no-any-return]
    served = sorted(name for name in dir(body) if name.startswith("on_")) if hasattr(body, "run") else []
    has = f"it has {', '.join(served)}" if served else "it serves no controls"
    raise InvalidRequest(
        f"the control {kind!r:.120} is unknown to the body, which has no on_{kind:.100}: {has}"
    )
