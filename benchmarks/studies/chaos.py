"""Campaigns that try to break PARK's promises: processes are killed, stopped and cut off while they work.

``python -m benchmarks chaos [--size small|full] [--seed N] [--times N] [PHASE ...]`` prints what it does and what an
audit finds. The exit code is 1 where a promise was broken, and what the processes wrote is kept. Runs of one seed do the
same harm at the same counts of units, to whomever it meets.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.campaign import images
from tests.campaign.chaos import Campaign, Size
from tests.campaign.planted import BUGS

#: The work of each phase, in full; a small phase does about a twentieth of it.
PHASES = {
    "broker": Size(
        clients=4,
        units=5_000,
        rounds=20,
        kinds=("map", "map", "driver", "nest"),
        lease=4.0,
        heartbeat=0.5,
        harms={"kill broker": 20},
        limit=600.0,
    ),
    "kills": Size(
        clients=5,
        units=5_000,
        rounds=10,
        lease=2.0,
        heartbeat=0.4,
        harms={"kill kernel": 20, "kill slot": 30, "kill broker": 3, "kill promiser": 2},
        limit=900.0,
    ),
    "all": Size(
        clients=5,
        units=6_000,
        rounds=20,
        lease=2.0,
        heartbeat=0.4,
        harms={
            "kill kernel": 15,
            "kill slot": 25,
            "kill broker": 8,
            "kill client": 20,
            "stop kernel": 10,
            "stop slot": 10,
            "stop broker": 5,
            "stop client": 10,
        },
        limit=900.0,
    ),
    "links": Size(
        clients=4,
        units=5_000,
        rounds=10,
        lease=2.0,
        heartbeat=0.4,
        tcp=True,
        harms={
            f"{how} {who}": 10 for how in ("cut", "hold", "slow") for who in ("clients", "kernels", "table")
        }
        | {"kill broker": 3, "kill kernel": 3, "kill client": 3},
        limit=900.0,
    ),
    "mirrors": Size(
        clients=4,
        units=3_000,
        rounds=10,
        kinds=("map", "driver", "nest", "abort"),
        lease=2.0,
        heartbeat=0.4,
        tcp=True,
        mirrors=50,
        throttled=5,
        harms={"kill broker": 10, "cut table": 10, "hold table": 10},
        limit=900.0,
    ),
    "crashes": Size(clients=4, units=2_500, rounds=0, kinds=("crash",), limit=600.0),
}
#: Images of a crash (`tests.campaign.images`): a hundred of them, in full a thousand.
IMAGES = "images"
#: Phases in which nothing runs again, and no session ends.
STILL = {"broker"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks chaos", description=__doc__.split("\n")[0])
    parser.add_argument(
        "phases", nargs="*", metavar="|".join([*PHASES, IMAGES]), help="which (default: all of them, in turn)"
    )
    parser.add_argument("--size", choices=("small", "full"), default="small", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--times", type=int, default=1, help="the number of seeds, in turn (default: %(default)s)"
    )
    parser.add_argument("--bug", choices=BUGS, default="", help="plant one in the broker: it must be noticed")
    options = parser.parse_args(arguments)
    names = [*PHASES, IMAGES]
    if unknown := set(options.phases) - set(names):
        parser.error(f"there is no phase {sorted(unknown)[0]!r}: choose from {', '.join(names)}")
    broken = [
        f"{phase} with seed {seed}"
        for seed in range(options.seed, options.seed + options.times)
        for phase in options.phases or names
        if not held(phase, options.size, seed, options.bug)
    ]
    print(f"broken: {', '.join(broken)}" if broken else "every promise was kept", flush=True)
    return 1 if broken else 0


def held(phase: str, size: str, seed: int, bug: str = "") -> bool:
    """Whether a phase of this *size* and *seed* broke no promise, with a *bug* in the broker."""
    if phase == IMAGES:
        count = 1000 if size == "full" else 100
        return images.main(["--images", str(count), "--seed", str(seed)]) == 0
    whole = replace(PHASES[phase], planted=bug)
    if size == "small":
        harms = {kind: max(1, times // 10) for kind, times in whole.harms.items()}
        whole = replace(
            whole, units=whole.units // 20, rounds=whole.rounds // 10, mirrors=whole.mirrors // 5, harms=harms
        )
    print(f"-- {phase}, {size}, seed {seed}: {whole.harms or 'no harm from outside'}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="park-chaos-"))
    began = time.monotonic()
    campaign = Campaign(folder, whole, seed, say=lambda text: print(text, flush=True))
    try:
        found = campaign.run()
    except AssertionError as error:
        print(f"broken: {error}\nsee {folder}", flush=True)
        return False
    broken = found.broken or (phase in STILL and bool(found.again or found.sessions_again))
    print(f"{found}\nharm done: {dict(campaign.done)} in {time.monotonic() - began:.0f} s", flush=True)
    if broken:
        print(f"see {folder}", flush=True)
    else:
        shutil.rmtree(folder)
    return not broken
