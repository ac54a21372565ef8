"""A progress bar on a terminal."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any


class Bar:
    """Used with ``with``; *update* as often as one likes. It appears with the first update."""

    _FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    _UNKNOWN = "{desc}: {n_fmt} done [{elapsed}{postfix}]"

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):  # nobody looks any more
                self._bar.close()

    def update(self, done: float, total: float, text: str = "") -> None:
        """*done* of *total* (0: unknown), and a word on why it waits."""
        with contextlib.suppress(OSError, ValueError):
            self._update(done, total, text)

    def _update(self, done: float, total: float, text: str) -> None:
        if self._bar is None:
            from tqdm import tqdm  # 30 ms, and only a terminal sees it

            self._bar = tqdm(desc=self._title, leave=False, dynamic_ncols=True)
        bar = self._bar
        bar.total = _whole(total) if total else None
        bar.n = _whole(done)
        bar.bar_format = self._FORMAT if total else self._UNKNOWN
        bar.set_postfix_str(text, refresh=False)
        bar.refresh()


def _whole(number: float) -> float:
    """An integer where it is one: it reads better."""
    return int(number) if number == int(number) else number
