"""Messages of bodies on their way to the kernel: in order, and of coalesced kinds only the latest now and then."""

from __future__ import annotations

import math
import time
from typing import Any

from park.body import payload
from park.body.plain import pack_plain
from park.errors import InvalidRequest
from park.model import MAX_LATEST_BYTES, Progress
from park.slot.captured_output import CapturedOutput, Tee
from park.slot.frame import Frame
from park.slot.kernel_channel import KernelChannel
from park.wire import codec, messages
from park.wire.fragments import check_size

#: Seconds between two messages of one coalesced kind, and between two looks at printed lines.
COALESCE_SECONDS = 0.1
#: Kinds of which only the latest message counts.
COALESCED_KINDS = ("progress", "improvement")


class BodyPublisher:
    """The way of a body's messages to the kernel."""

    def __init__(self, channel: KernelChannel) -> None:
        self._channel = channel
        #: lines that bodies have printed
        self.captured = CapturedOutput()
        #: the standard streams of the process
        self.tees: list[Tee] = []
        #: when printed lines were last sent
        self._printed_at = 0.0

    def publish(self, frame: Frame, kind: str, message: Any) -> None:
        """Send a message, or keep it for a while if its kind is coalesced."""
        if kind in COALESCED_KINDS:
            frame.coalesced[kind] = message
            self.flush(frame)
        else:
            self.flush(frame, printed=True)  # printed lines stay in order; coalesced messages keep their pace
            self._send(frame, kind, message)

    def flush(self, frame: Frame, everything: bool = False, printed: bool = False) -> None:
        """Send the messages and the printed lines that have waited long enough.

        *printed*: send all lines that have ended; *everything*: also partial lines and all messages.
        """
        now = time.monotonic()
        printed |= everything
        if everything:
            for tee in self.tees:
                if tee.begun:
                    tee.settle()
        if self.captured.waiting and (printed or now - self._printed_at >= COALESCE_SECONDS):
            self._printed_at = now
            self.send_printed(frame, printed)
        for kind in list(frame.coalesced):
            if everything or now - frame.sent_at.get(kind, -COALESCE_SECONDS) >= COALESCE_SECONDS:
                frame.sent_at[kind] = now
                self._send(frame, kind, frame.coalesced.pop(kind))

    def send_printed(self, frame: Frame, everything: bool = False) -> None:
        """Send the printed lines; with *everything* also partial ones."""
        for line in self.captured.take(everything):
            self._send(frame, "log", line)

    def report_control_error(self, frame: Frame, seq: int, text: str) -> None:
        """Tell on the job's stream that control *seq* went wrong."""
        self.flush(frame, everything=True)  # first the messages that the body has published before
        frame.published += 1
        run = frame.run
        error = messages.Publish(run.job, run.attempt, "error", control=seq, number=frame.published)
        self._channel.send(error, codec.pack({"text": text[:2000], "record": None}))

    def _send(self, frame: Frame, kind: str, message: Any) -> None:
        if kind == "log":  # readers need not unpickle it
            data = codec.pack([message.text, message.level, message.time or time.time()])
        else:
            data = pack_plain(message) or payload.dumps(message, "the message")
        check_size(len(data))
        number = 0
        if kind not in COALESCED_KINDS:
            frame.published = number = frame.published + 1
        elif len(data) > MAX_LATEST_BYTES:
            raise InvalidRequest(
                f"the {kind} takes {len(data):,} bytes; {MAX_LATEST_BYTES:,} at most are kept for late followers: "
                "publish what is long as a dict with a kind of its own"
            )
        shown: dict[str, Any] = {}
        if isinstance(message, Progress) and math.isfinite(message.done) and math.isfinite(message.total):
            shown = {name: getattr(message, name) for name in ("done", "total", "units", "note")}
        publish = messages.Publish(frame.run.job, frame.run.attempt, kind, number=number, **shown)
        self._channel.send(publish, data)
