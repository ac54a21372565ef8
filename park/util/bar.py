"""A progress bar on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Bar:
    """Used with ``with``; *update* as often as one likes."""

    def __init__(self, title: str) -> None:
        from tqdm import tqdm  # 30 ms, and only a terminal sees it

        self._bar: Any = tqdm(total=None, desc=title, leave=False, dynamic_ncols=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, done: float, total: float, text: str = "") -> None:
        """*done* of *total* (0: unknown), and a word on why it waits."""
        self._bar.total = total or None
        self._bar.n = done
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.refresh()
