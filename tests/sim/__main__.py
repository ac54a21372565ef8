"""Lives from seeds, with the story of each that goes wrong: ``python -m tests.sim live 1000 1100``.

``live``: accidents stop, and then everything must end. ``storm``: they never stop, and all that comes about must be right.
"""

from __future__ import annotations

import sys
import time
import traceback

from tests.support.trials import live, storm

MODES = {"live": live, "storm": storm}


def main(mode: str, first: str, stop: str = "") -> int:
    """Run the seeds from *first* to before *stop*, by default the first alone. Returns how many of them go wrong."""
    seeds = range(int(first), int(stop or int(first) + 1))
    wrong, simulated, began = 0, 0.0, time.monotonic()
    for seed in seeds:
        try:
            simulated += MODES[mode]([seed])
        except Exception:
            wrong += 1
            print(f"seed {seed}:\n{traceback.format_exc()}", flush=True)
    took = time.monotonic() - began
    print(f"{wrong} of {len(seeds)} lives went wrong; {simulated / took:.0f} times as fast as real time")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:])))
