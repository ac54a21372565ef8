"""A figure that a notebook shows without being asked to, as it shows those of pyplot."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

from park.util import notebook

#: Those that the cell which runs has made, and the shells that show them at its end.
_made: list[Picture] = []
_shells: list[Any] = []


class Picture(Figure):
    """A figure without pyplot. In a notebook it is under the cell that made it, once: also one of a loop, or of a line
    that ends with a semicolon.
    """

    #: the notebook has it
    shown = False

    def under_cell(self) -> Picture:
        """Have it shown at the end of the cell, where it was not shown before."""
        shell = notebook.shell()
        if shell is not None:
            _made.append(self)
            if shell not in _shells:
                _shells.append(shell)
                shell.events.register("post_execute", _show)
        return self

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Asked for first, whichever format the notebook takes then."""
        self.shown = True
        return {}


def _show() -> None:
    """The cell has ended."""
    waiting = [picture for picture in _made if not picture.shown]
    _made.clear()
    for picture in waiting:
        notebook.display(picture)
