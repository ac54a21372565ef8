"""A figure that a notebook shows at the end of its cell, as it shows figures of pyplot."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

from park.util import notebook

#: The figures of the running cell, and the notebook shells that show them when it ends.
_made: list[NotebookFigure] = []
_shells: list[Any] = []


class NotebookFigure(Figure):
    """A figure without pyplot.

    A notebook shows the figure once, under the cell that made it, also if it was made in a loop or in a line that ends with
    a semicolon.
    """

    #: True once the notebook has shown the figure
    shown = False

    def under_cell(self) -> NotebookFigure:
        """Registers the figure, so that the notebook shows it when the cell ends, and returns it."""
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
        """Notes that the notebook shows the figure; the notebook calls this before it asks for an image."""
        self.shown = True
        return {}


def _show() -> None:
    """Shows the figures of the cell that has ended."""
    waiting = [picture for picture in _made if not picture.shown]
    _made.clear()
    for picture in waiting:
        notebook.display(picture)
