"""PARK in a notebook: a real kernel runs the cells, and what it sends to its front end is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

import park
from park.job import Jobs
from park.model import JobRecord

BEGIN = """
import numpy as np, park, time
from park.fit import *

def line(x, a, b):
    return a * x + b

def slow():
    for n in range(1, 9):
        time.sleep(0.2)
        park.environment().publish(park.Progress(n, 8, "loaves", "crust 1.5"))
        park.environment().ready()

x = np.linspace(0, 1, 20)
park.local_service.configure(slots=1)
service = park.local_service
job = service.job(service.start(slow, name="<bread>"))
job.wait()
fit = Fit(Assembly((Model(line, a=(0, 5), b=(0, 5)), (x, 2 * x + 1, 0.1))))
result = fit.wait()
"""


class Notebook:
    """A kernel, and what its cells show."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(transport="ipc", ip=str(folder / "k"))
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> list[dict[str, Any]]:
        """The output of a cell, by type: the text of a stream, or a display in several formats."""
        shown: list[dict[str, Any]] = []

        def see(message: dict[str, Any]) -> None:
            content, kind = message["content"], message["msg_type"]
            if kind == "stream":
                shown.append({content["name"]: content["text"]})
            elif kind in ("display_data", "execute_result"):
                shown.append(content["data"])
            elif kind == "error":
                shown.append({"error": "\n".join(content["traceback"])})

        self.client.execute_interactive(code, output_hook=see, timeout=60)
        return shown

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    made = Notebook(tmp_path_factory.mktemp("notebook"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def begun(notebook: Notebook) -> str:
    """The output of the first cell."""
    shown = notebook.run(BEGIN)
    assert not [each["error"] for each in shown if "error" in each]
    return "".join(each.get("stderr", "") for each in shown)


def test_a_bar_counts_while_a_cell_waits(begun: str) -> None:
    drawn = begun.split("\r")
    assert any("/8 loaves" in each and "crust 1.5" in each for each in drawn), begun
    assert "Warning" not in begun


@pytest.mark.parametrize("what", ["job", "service.jobs()", "service.table", "result"])
@pytest.mark.usefixtures("begun")
def test_jobs_and_results_are_tables(notebook: Notebook, what: str) -> None:
    (shown,) = notebook.run(what)
    text = shown["text/html"]
    assert text.count("<table>") == text.count("</table>") == 1
    rows = {"job": 1, "service.jobs()": 2, "service.table": 0, "result": 2}[what]
    assert text.count("<tr>") == text.count("</tr>") == 1 + rows
    if what in ("job", "service.jobs()"):
        assert escape("<bread>") in text
    assert "<bread>" not in text
    assert "text/plain" in shown


#: Cells with so many pictures.
PICTURES = [
    ("result.plot.fit()", 1),
    ("result.plot.marginals();", 1),
    ("kept = result.plot.correlations()", 1),
    ("kept", 1),
    ("for view in ('linear', 'log'): result.plot.fit(view)", 2),
    ("len(result.plot.all())", 4),
    ("from IPython.display import display\ndisplay(result.plot.fit())", 1),
    ("kept = result.plot.fit()\nkept", 1),
    ("paths = result.save('saved')", 0),
    ("%matplotlib inline\nresult.plot.fit();", 1),
    ("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nresult.plot.fit();", 2),
]


@pytest.mark.parametrize(("cell", "count"), PICTURES)
@pytest.mark.usefixtures("begun")
def test_each_picture_is_under_its_cell_once(notebook: Notebook, cell: str, count: int) -> None:
    if cell == "kept":
        notebook.run("kept = result.plot.correlations();")
    shown = notebook.run(cell)
    assert not [each["error"] for each in shown if "error" in each]
    assert len([each for each in shown if "image/png" in each]) == count


def test_a_list_of_jobs_shows_those_of_a_service_that_is_gone() -> None:
    class Gone:
        def status(self, job: int) -> JobRecord:
            raise park.NoBroker(f"nobody knows job {job}")

    jobs = Jobs(park.Job(Gone(), number) for number in range(1, 61))  # type: ignore[arg-type]
    text = jobs._repr_html_()
    assert "nobody knows job 50" in text
    assert "nobody knows job 51" not in text
    assert "and 10 more" in text
