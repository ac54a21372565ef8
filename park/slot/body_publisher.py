"""Messages of bodies on their way to the kernel: in order, and of coalesced kinds only the latest now and then."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

from park.body import payload
from park.body.plain import pack_plain
from park.errors import InvalidRequest
from park.model import MAX_LATEST_BYTES, Progress
from park.slot.frame import Frame
from park.slot.kernel_channel import KernelChannel
from park.slot.line_stream import LineStream
from park.wire import codec, messages
from park.wire.fragments import check_size

#: Seconds between two messages of one coalesced kind.
COALESCE_SECONDS = 0.1
#: Kinds of which only the latest message counts.
COALESCED_KINDS = ("progress", "improvement")


class BodyPublisher:
    """The way of a body's messages to the kernel."""

    def __init__(self, channel: KernelChannel) -> None:
        self._channel = channel
        #: numbers of printed lines and of messages
        self.numbers = itertools.count(1)
        #: the standard streams of the process
        self.streams: list[LineStream] = []

    def publish(self, frame: Frame, kind: str, message: Any) -> None:
        """Send a message, or keep it for a while if its kind is coalesced."""
        if kind in COALESCED_KINDS:
            frame.coalesced[kind] = message
            self.flush(frame)
        else:
            self._send(frame, kind, message)

    def flush(self, frame: Frame, everything: bool = False) -> None:
        """Send the messages that have waited long enough; *everything*: all messages, and lines that have not ended."""
        if everything:
            for stream in self.streams:
                stream.settle()
        if not frame.coalesced:
            return
        now = time.monotonic()
        for kind in list(frame.coalesced):
            if everything or now - frame.sent_at.get(kind, -COALESCE_SECONDS) >= COALESCE_SECONDS:
                frame.sent_at[kind] = now
                self._send(frame, kind, frame.coalesced.pop(kind))

    def report_control_error(self, frame: Frame, seq: int, text: str) -> None:
        """Tell on the job's stream that control *seq* went wrong."""
        self.flush(frame, everything=True)  # first the messages that the body has published before
        run = frame.run
        error = messages.Publish(run.job, run.attempt, "error", control=seq, number=next(self.numbers))
        self._channel.send(error, codec.pack({"text": text[:2000], "record": None}))

    def _send(self, frame: Frame, kind: str, message: Any) -> None:
        if kind == "log":  # readers need not unpickle it
            data = codec.pack([message.text, message.level, message.time or time.time()])
        else:
            data = pack_plain(message) or payload.dumps(message, "the message")
        check_size(len(data))
        number = 0 if kind in COALESCED_KINDS else next(self.numbers)
        if not number and len(data) > MAX_LATEST_BYTES:
            raise InvalidRequest(
                f"the {kind} takes {len(data):,} bytes; {MAX_LATEST_BYTES:,} at most are kept for late followers: "
                "publish what is long as a dict with a kind of its own"
            )
        shown: dict[str, Any] = {}
        if isinstance(message, Progress) and math.isfinite(message.done) and math.isfinite(message.total):
            shown = {name: getattr(message, name) for name in ("done", "total", "units", "note")}
        publish = messages.Publish(frame.run.job, frame.run.attempt, kind, number=number, **shown)
        self._channel.send(publish, data)
