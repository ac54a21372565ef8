"""The page as a tile of JupyterLab, through jupyter-server-proxy: it starts ``park web`` and passes requests on.

Jupyter has checked its user, so the page lets in each request that carries a secret which only the two know. The secret is
new with each Jupyter server.
"""

from __future__ import annotations

import secrets
import sys
from typing import Any

from park.web.access import PROXY_HEADER
from park.web.app import FOLDER
from park.web.serving import PROXY_VARIABLE

#: Seconds until the page must answer: it connects to the broker first.
START_SECONDS = 30.0


def server() -> dict[str, Any]:
    """The settings that jupyter-server-proxy asks for."""
    secret = secrets.token_urlsafe(32)
    return {
        "command": [sys.executable, "-m", "park.cli.park", "web", "--port", "{port}", "--no-browser"],
        "environment": {PROXY_VARIABLE: secret},
        "request_headers_override": {PROXY_HEADER: secret},
        "timeout": START_SECONDS,
        "launcher_entry": {"title": "PARK", "icon_path": str(FOLDER / "static" / "icon.svg")},
    }
