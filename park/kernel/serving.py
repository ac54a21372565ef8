"""Controls, as a body gets them: ``on_<kind>(message)`` is called at its safe points.

A control is a dict with a ``kind``. Each process that runs a job's own units gives its body all of them, in their order:
between units (not before a body that runs once has begun), in ``env.ready()`` and when a map that the body has made is
over; never two at a time. What goes wrong with one is told on the job's stream, and the job goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from park import payload
from park.errors import Abort, InvalidRequest
from park.kernel.answers import Broken, one_line, trace_of
from park.kernel.controls import Controls
from park.kernel.fabric import Fabric, Frame
from park.wire import codec, messages
from park.wire.pack import Buffer


class Serving(Fabric):
    """A fabric that serves controls."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._controls = Controls()

    def _keep_control(self, message: messages.Control, data: Buffer) -> None:
        self._controls.keep(message.job, message.seq, data)
        self._look_at_controls = True

    def _forget_controls(self, job: int) -> None:
        """The job has ended."""
        self._controls.forget(job)
        self._served.pop(job, None)

    def _serve(self) -> None:
        if not self._look_at_controls:
            return
        frame = self._stack[-1]
        body, job = frame.body, frame.run.job
        if not frame.run.stored or frame.serving or body is None or isinstance(body, Broken):
            return
        was_open, self._open = self._open, False
        frame.serving = True
        try:
            self._look_at_controls = False
            while waiting := self._controls.after(job, self._served[job]):
                for seq, data in waiting:
                    self._served[job] = seq
                    self._give(frame, seq, data)
        finally:
            frame.serving = False
            self._open = was_open

    def _give(self, frame: Frame, seq: int, data: Buffer) -> None:
        """Give the body one control."""
        if frame.aborted:
            raise Abort
        try:
            message = _message(data)
            method = _method(frame.body, message["kind"])
        except InvalidRequest as error:
            self._blame(frame, seq, str(error))
            return
        try:
            self._open = True
            method(message)
            self._open = False
        except InvalidRequest as error:
            self._open = False
            self._blame(frame, seq, f"the control {message['kind']!r} was refused: {error}")
        except BaseException as error:
            self._open = False
            self._pass_on(error)
            self.tees[1].write(trace_of(error))
            self._blame(frame, seq, f"on_{message['kind']} raised {one_line(error)}")

    def _blame(self, frame: Frame, seq: int, text: str) -> None:
        """Something is wrong with this control."""
        self._flush(frame, everything=True)  # what was said before
        frame.published += 1
        run, number = frame.run, frame.published
        error = messages.Publish(run.job, run.attempt, "error", control=seq, number=number)
        self._send(error, codec.pack({"text": text[:2000], "record": None}))


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
    """What serves controls of this kind. Raises InvalidRequest."""
    method = getattr(body, f"on_{kind}", None) if hasattr(body, "run") else None
    if callable(method):
        return method  # type: ignore[no-any-return]
    served = sorted(name for name in dir(body) if name.startswith("on_")) if hasattr(body, "run") else []
    has = f"it has {', '.join(served)}" if served else "it serves no controls"
    raise InvalidRequest(
        f"the control {kind!r:.120} is unknown to the body, which has no on_{kind:.100}: {has}"
    )
