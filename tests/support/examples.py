"""The examples of README and docs: where they are, and a process that runs one after the other.

``python tests/support/examples.py`` reads a line of JSON for each example, ``[script, folder]``, runs the script in this
folder as ``__main__``, and answers with a line of JSON: its traceback, or "". All examples share one local service, as the
cells of one notebook do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path
from types import ModuleType

BLOCK = re.compile(
    r"^(?P<skip>\.\. not run: .+\n\s*\n)?"
    r"\.\. code-block:: python\n"
    r"(?: +:.+\n)*"  # options
    r"\n+"
    r"(?P<code>(?:(?: +\S.*)?\n)+)",
    re.MULTILINE,
)


def examples(text: str) -> list[tuple[int, str]]:
    """(line, code) of each python block of *text* that is to run."""
    return [
        (text.count("\n", 0, match.start("code")) + 1, textwrap.dedent(match["code"]).strip("\n") + "\n")
        for match in BLOCK.finditer(text + "\n")
        if not match["skip"]
    ]


class Runner:
    """A process that runs examples. *log*: the file that gets what they print."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env={**os.environ, "MPLBACKEND": "agg"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )

    def run(self, code: str, folder: Path) -> str:
        """Runs *code* in *folder*; returns "" or its traceback with the last lines of the log."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        script = folder / "example.py"
        script.write_text(code)
        print(json.dumps([str(script), str(folder)]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        error: str = json.loads(answer) if answer else "the process of the examples has ended"
        return f"{error}\n{self._log.read_text()[-2000:]}" if error else ""

    def close(self) -> None:
        """Ends the process, with its local service."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(50)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()


def run(script: str, folder: str) -> str:
    """Runs *script* as ``__main__`` in *folder*; returns "" or its traceback."""
    main = ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    os.chdir(folder)
    try:
        exec(compile(Path(script).read_text(), script, "exec"), main.__dict__)
    except BaseException:
        return traceback.format_exc()
    return ""


def serve() -> None:
    """Runs examples until standard input ends. Everything that they print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve()
