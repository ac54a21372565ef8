"""The campaign of hostile peers: honest people work while attackers of each role do to a broker what they can.

``python -m benchmarks hostile [--size small|medium|full] [--seed N] [--hole NAME]`` prints what honest people and
attackers saw. The small size takes 20 seconds, the medium one three minutes and the full one ten, these two with 20 honest
peers. The exit code is 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.campaign.hostile import Hostile
from tests.campaign.planted import HOLES

#: Seconds of each size.
SIZES = {"small": 20.0, "medium": 180.0, "full": 600.0}
#: Honest owners and honest kernels of each size.
PEERS = {"small": (2, 1), "medium": (16, 4), "full": (16, 4)}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks hostile", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--hole", choices=HOLES, default="", help="plant one in the broker: it must be noticed"
    )
    options = parser.parse_args(arguments)
    peers = PEERS[options.size]
    with tempfile.TemporaryDirectory(prefix="park-hostile-") as folder:
        found = Hostile(Path(folder), SIZES[options.size], options.seed, options.hole, *peers).run()
    print(found, flush=True)
    print("broken" if found.broken else "every promise was kept", flush=True)
    return 1 if found.broken else 0
