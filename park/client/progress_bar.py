"""A progress bar: on a terminal, or in a notebook."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from types import TracebackType
from typing import Any

from park.model import Progress
from park.text import visible
from park.util.notebook import shell
from park.util.pace import Pace, counted, span
from park.util.stdio import ERR


def is_seen() -> bool:
    """Whether a bar that is drawn now is seen: on a terminal or in a notebook."""
    with contextlib.suppress(ValueError, AttributeError):  # closed, or there is none
        if sys.stderr.isatty():
            return True
    return shell() is not None


class ProgressBar:
    """A bar for a ``with`` block, which appears with the first `update`. tqdm draws it."""

    _FORMAT = "{{desc}}: {{percentage:3.0f}}%|{{bar}}| {counted} [{{elapsed}}<{left}{{postfix}}]"
    _UNKNOWN = "{{desc}}: {counted}[{{elapsed}}{{postfix}}]"

    def __init__(self, title: str) -> None:
        self._title = title
        self._pace = Pace()
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):  # the terminal has gone
                self._bar.close()

    def update(self, progress: Progress, text: str, now: float) -> None:
        """Draw the *progress* of *now*; *text* says why the job waits, "" while it runs."""
        if ERR.waits:  # the terminal is paused: it is drawn when that goes on
            return
        with contextlib.suppress(OSError, ValueError):
            self._update(progress, text, now)

    def _update(self, progress: Progress, text: str, now: float) -> None:
        left = None if text else self._pace.left(progress, now)
        how_far = visible(counted(progress)).replace("{", "{{").replace("}", "}}")
        if progress.total:
            form = self._FORMAT.format(counted=how_far, left=span(left))
        else:
            form = self._UNKNOWN.format(counted=how_far and f"{how_far} ")
        if self._bar is None:
            self._bar = _made(visible(self._title), form)
        bar = self._bar
        bar.n, bar.bar_format = progress.fraction, form
        bar.set_postfix_str(visible(", ".join(filter(None, (progress.note, text)))), refresh=False)
        bar.refresh()


class _Terminal:
    """Standard error for a thread that must not block while the terminal is paused, nor fail when it has gone."""

    def __init__(self) -> None:
        self.encoding = getattr(sys.stderr, "encoding", None) or "utf-8"

    def write(self, text: str) -> None:
        stream: Any = sys.stderr
        if stream is sys.__stderr__:
            ERR.write(text.encode(self.encoding, "replace"), self)
        else:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.write(text)
                stream.flush()

    def flush(self) -> None:
        """Do nothing: `write` has passed on all that the terminal takes."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        stream: Any = sys.stderr
        return int(stream.fileno())


def _made(title: str, form: str) -> Any:
    """tqdm's bar, with a total of 1: the total of a job may change, and tqdm's bar in a notebook does not show that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets gets a bar of text
        if shell() is None:
            from tqdm import tqdm  # 30 ms, and only a terminal sees it
        else:
            from tqdm.auto import tqdm
        file = _Terminal() if shell() is None else None
        # with a delay, tqdm draws no bar before its size is known
        bar = tqdm(
            desc=title,
            total=1.0,
            bar_format=form,
            leave=False,
            dynamic_ncols=True,
            file=file,
            delay=1e-9 if shell() is None else 0,
        )
    if shell() is None:
        bar.dynamic_ncols = _size
        bar.ncols, bar.nrows = _size(sys.stderr)
    return bar


def _size(stream: Any) -> tuple[int, int]:
    """Columns and rows of the terminal; 80 and 24 where it reports none."""
    columns, rows = 0, 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        columns, rows = os.get_terminal_size(stream.fileno())
    return (columns or 80) - 1, rows or 24
