"""joblib's own tests of backends, on the backend "park", where the installed joblib has them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import joblib
import pytest

from tests.support.fabric import ENVIRONMENT

#: Tests, or their cases, that are not asked of PARK, and why.
NOT_OURS = {
    "initializer": "it shares a dict of multiprocessing's manager, which lets in only its own children",
    "dispatch_multiprocessing": "the same, with a list; tests/client/test_pool.py has an initializer",
    "loky-park": "PARK inside a process of another pool, which has not imported it",
    "multiprocessing-park": "PARK inside a fork of its process, which says so",
    "back_compat_backend-park": "the same",
    "park-loky": "the same as loky-park, in another order of words",
    "park-multiprocessing": "the same as multiprocessing-park, in another order of words",
    "interactively_defined": "it starts a script which does not import PARK",
    "unpicklable_functions": "the same",
    "memmap": "files that loky maps into memory for its processes on one machine",
    "error_capture": "it looks into pools of joblib's own",
}
TESTS = Path(joblib.__file__).parent / "test" / "test_parallel.py"


@pytest.mark.heavy
@pytest.mark.skipif(not TESTS.exists(), reason="this joblib was installed without its tests")
def test_joblib_s_own_tests_pass(tmp_path: Path) -> None:
    text, changed = re.subn(
        r'PROCESS_BACKENDS = \["multiprocessing", "loky"\]',
        'PROCESS_BACKENDS = ["multiprocessing", "loky", "park"]',
        TESTS.read_text(),
    )
    assert changed == 1
    (tmp_path / "test_backends.py").write_text(text)
    (tmp_path / "conftest.py").write_text(
        "import park, park.joblib\nfrom joblib.parallel import BACKENDS\n"
        "park.local_service.configure(slots=2)\nBACKENDS['park'] = park.joblib.ParkBackend\n"
    )
    chosen = f"park and not ({' or '.join(NOT_OURS)})"
    command = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "60",
        "-k",
        chosen,
        ".",
    ]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 60, done.stdout[-1000:]
