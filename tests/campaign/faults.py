"""A disk that fails, and that is written down: `disk.c`, compiled where there is a compiler."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")
#: Whether it can be used here.
POSSIBLE = sys.platform == "linux" and shutil.which("cc") is not None


def library(folder: Path) -> Path:
    """The library for LD_PRELOAD, made in *folder*."""
    made = folder / "disk.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", made, SOURCE, "-ldl"], check=True
    )
    return made
