"""A campaign: clients, kernels and a broker at work, and the harm that is done to them at times that a seed says."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from msgspec import structs

from park.net.keys import CLIENT, POOL, Keyring
from tests.campaign.audit import Audit, Harms, audit
from tests.campaign.mirrors import shown
from tests.campaign.plan import Task, plan
from tests.campaign.proxy import DOORS, HOST, Proxy, three_ports
from tests.campaign.work import count
from tests.support.fabric import Fabric, Process, slots_of

#: Seconds between two harms at least.
PAUSE = 0.15
#: Seconds in which mirrors must show the broker's table when all is quiet.
SETTLE = 5.0
#: Bytes a second that a throttled mirror reads.
THROTTLE = 20_000.0


@dataclass(frozen=True)
class Size:
    """The work of a campaign, and its harm. *harms* counts by kind: see `Campaign.harm`."""

    clients: int = 3
    #: of each client, and the seconds that each takes
    units: int = 1000
    seconds: float = 0.005
    #: maps of sessions, of each client
    rounds: int = 4
    kinds: tuple[str, ...] = ("map", "map", "driver", "nest", "abort", "stop")
    kernels: int = 3
    slots: int = 2
    lease: float = 1.0
    heartbeat: float = 0.2
    harms: dict[str, int] = field(default_factory=dict)
    #: seconds after which a broker that was killed is started again
    away: tuple[float, ...] = (0.0, 0.0, 2.0, 6.0)
    #: over tcp, through a proxy
    tcp: bool = False
    #: mirrors that follow the table, and how many of them can only read slowly
    mirrors: int = 0
    throttled: int = 0
    #: seconds without any progress after which something waits that must not
    patience: float = 40.0
    #: the bug that is planted in the broker: see `planted`
    planted: str = ""
    #: seconds in which all must be over
    limit: float = 300.0


class PromiseBroken(AssertionError):
    """Raised when a campaign stands still, or a part of the fabric ends or fails: what a broken promise looks like."""


class Campaign:
    """One campaign in *folder*; *say* is told what happens."""

    def __init__(self, folder: Path, size: Size, seed: int, say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.size = size
        self.random = random.Random(f"campaign {seed}")
        self.say = say
        self.plans: dict[int, list[Task]] = {
            n: plan(seed, n, size.units, size.seconds, size.kinds) for n in range(1, size.clients + 1)
        }
        self.harms = Harms()
        self.done: Counter[str] = Counter()
        self.ledger = folder / "ledger"
        self.kernels: list[Process] = []
        self.clients: dict[int, Process] = {}
        #: events that are due later: the time and the event
        self._later: list[tuple[float, Callable[[], None]]] = []
        (folder / "plan.json").write_text(json.dumps(asdict(size) | {"seed": seed}))
        self.port = three_ports(self.random)
        options = ("--bind", f"tcp://{HOST}:{self.port}") if size.tcp else ()
        broker = ("tests.campaign.planted", size.planted) if size.planted else ("park.cli.broker",)
        self.fabric = Fabric(folder, *options, lease=size.lease, heartbeat=size.heartbeat, command=broker)
        self.watchers: Process | None = None
        #: seconds that the mirrors took to show the broker's table, when all was quiet
        self.settled: float | None = None

    def run(self) -> Audit:
        """Let it happen, then judge. PromiseBroken where something stands still or ends in error."""
        with self.fabric:
            self.began = time.monotonic()
            if self.size.tcp:
                self._connect()
            self.kernels = [self._kernel() for _ in range(self.size.kernels)]
            for number in self.plans:
                self._client(number)
            if self.size.mirrors:
                self._watch()
            self._happen()
            if self.size.mirrors:
                self._compare()
            for kernel in self.kernels:
                kernel.end()
            self.fabric.broker.end()
            self._check_broker()
        return audit(self.folder, self.fabric.home, self.plans, self.harms)

    def _check_broker(self) -> None:
        if "Traceback" in self.fabric.broker.text:
            raise PromiseBroken(self.fabric.broker.text)

    def schedule(self) -> list[tuple[int, str]]:
        """The harms, each with the number of runs in the ledger at which it is done."""
        kinds = [kind for kind, times in self.size.harms.items() for _ in range(times)]
        self.random.shuffle(kinds)
        runs = sum(len(t.leaves()) for p in self.plans.values() for t in p if t.kind not in ("abort", "stop"))
        return [(round(runs * (0.02 + 0.9 * n / max(1, len(kinds)))), kind) for n, kind in enumerate(kinds)]

    def _happen(self) -> None:
        schedule = self.schedule()
        seen, moved, harmed = -1, self.began, 0.0
        while True:
            now = time.monotonic()
            for entry in [e for e in self._later if e[0] <= now]:
                self._later.remove(entry)
                entry[1]()
            runs = count(self.ledger)
            if runs != seen:
                seen, moved = runs, now
            if not self.fabric.broker.running:
                raise PromiseBroken(f"the broker has ended: {self.fabric.broker.text}")
            if schedule and runs >= schedule[0][0] and now >= harmed + PAUSE:
                harmed = now
                self.harm(schedule.pop(0)[1])
            if not self._later and self._all_done():
                break
            if now >= moved + self.size.patience:
                raise PromiseBroken(f"nothing moves any more at {runs} runs: {self.story()}")
            if now >= self.began + self.size.limit:
                raise PromiseBroken(f"not over in {self.size.limit} s: {self.story()}")
            time.sleep(0.005)
        if schedule:
            self.say(f"{len(schedule)} harms came too late: {Counter(kind for _, kind in schedule)}")

    def _all_done(self) -> bool:
        for number, client in self.clients.items():
            if client.running:
                return False
            code = client.wait()
            if code:
                raise PromiseBroken(f"client {number} ended with {code}:\n{client.text}")
        return True

    def story(self) -> str:
        """Why it goes on."""
        with suppress(Exception):
            command = self.fabric.park("jobs", "-a")
            command.wait(50)
            texts = [command.text, self.fabric.broker.text[-2000:]]
            texts += [f"client {n}: {c.text[-1000:]}" for n, c in self.clients.items() if c.running]
            return "\n".join(texts)
        return "and the broker does not answer"

    # -- who is there --------------------------------------------------------------------------

    def _connect(self) -> None:
        """A proxy before the broker, a slow one too, and keys for all who come."""
        ring = Keyring(self.fabric.home)
        self.proxy, self.slow_proxy = (
            Proxy(three_ports(self.random), self.port, rate) for rate in (None, THROTTLE)
        )
        for proxy in (self.proxy, self.slow_proxy):
            self.fabric.callback(proxy.close)
            folder = self.fabric.config / "park" / "keys" / f"{HOST}_{proxy.port}"
            folder.mkdir(parents=True)
            for name in ("mirror", *(f"owner{number}" for number in self.plans)):
                ring.new(name, CLIENT, folder / f"{name}.key")
        ring.new("kernel", POOL, self.folder / "kernel.key")

    @property
    def address(self) -> str:
        """The address at which peers find the broker."""
        return self.proxy.url if self.size.tcp else str(self.fabric.connection)

    def _kernel(self) -> Process:
        key = ("--key", str(self.folder / "kernel.key")) if self.size.tcp else ()
        command = ("-m", "park.cli.kernel", "--broker", self.address, "--slots", str(self.size.slots), *key)
        return self.fabric.start(*command, cwd=self.folder)

    def _client(self, number: int) -> None:
        command = ("-m", "tests.campaign.client", self.address, str(self.folder), str(number))
        self.clients[number] = self.fabric.start(*command, cwd=self.folder)

    def _watch(self) -> None:
        slow = self.slow_proxy.url if self.size.tcp else self.address
        urls = [self.address] * (self.size.mirrors - self.size.throttled) + [slow] * self.size.throttled
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.watchers = self.fabric.start("-m", "tests.campaign.mirrors", "mirror", *urls, **pipes)
        assert self._ask_watchers(None) == "following\n", self.watchers.text

    def _ask_watchers(self, question: str | None = "\n") -> str:
        assert self.watchers is not None
        stdin, stdout = self.watchers.popen.stdin, self.watchers.popen.stdout
        assert stdin is not None
        assert stdout is not None
        if question is not None:
            stdin.write(question)
            stdin.flush()
        return str(stdout.readline())

    def _compare(self) -> None:
        """All is quiet: the mirrors show what the broker does, soon."""
        quiet = time.monotonic()
        service = self.fabric.connect()
        while True:
            assert service._link.feed.wait_synced(SETTLE)  # type: ignore[attr-defined]
            right, seen = shown(service.table), json.loads(self._ask_watchers())
            if all(mirror == right for mirror in seen):
                break
            wrong = [mirror for mirror in seen if mirror != right]
            if time.monotonic() >= quiet + SETTLE:
                raise PromiseBroken(f"{len(wrong)} mirrors show {wrong[:3]}, not {right}")
            time.sleep(0.05)
        self.settled = time.monotonic() - quiet
        records = {r.job: structs.replace(r, reason="") for r in service.records()}
        table = {n: structs.replace(r, reason="") for n, r in service.table.jobs.items()}
        if records != table:
            raise PromiseBroken("the table is not what the broker knows")
        self.say(f"{len(seen)} mirrors show the broker's table {self.settled:.2f} s after all was quiet")

    def _in(self, seconds: float, what: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, what))

    # -- harm ----------------------------------------------------------------------------------

    def harm(self, kind: str) -> None:
        """Do it: ``kill`` or ``stop`` a ``broker``, ``kernel``, ``slot`` or ``client``.

        Or ``kill`` the ``promiser``, which is the broker when it has just accepted a job; or ``cut``, ``hold`` or
        ``slow`` some connections of ``clients``, ``kernels`` or the ``table``.
        """
        self.done[kind] += 1
        how, who = kind.split()
        if who in DOORS:
            self._harm_links(how, who)
            return
        getattr(self, f"_{how}_{who}")()

    def _tell(self, what: str) -> None:
        self.say(f"{time.monotonic() - self.began:7.2f} s {count(self.ledger):7} runs: {what}")

    def _kill_broker(self) -> None:
        away = self.random.choice(self.size.away)
        self.fabric.broker.kill()
        self._tell(f"kill broker, back after {away} s")
        self.harms.broker.append(self._span(away))
        self._check_broker()
        time.sleep(away)  # nothing else is harmed meanwhile
        self.fabric.start_broker()

    def _kill_promiser(self) -> None:
        """Kill the broker as soon as a client has written down that its job was accepted."""

        def accepted() -> int:
            return sum(diary.read_bytes().count(b'"accepted"') for diary in self.folder.glob("*.diary"))

        before, give_up = accepted(), time.monotonic() + 5.0
        while accepted() == before and time.monotonic() < give_up:
            time.sleep(0.0005)
        self._kill_broker()

    def _stop_broker(self) -> None:
        seconds = self._nap()
        self._tell(f"stop broker for {seconds:.2f} s")
        self.harms.broker.append(self._span(seconds))
        self.fabric.broker.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.fabric.broker.signal(signal.SIGCONT)

    def _kill_kernel(self) -> None:
        place = self.random.randrange(len(self.kernels))
        victim = self.kernels[place]
        self._tell(f"kill kernel {victim.pid}")
        self._mark(0.0, victim.pid, *slots_of(victim.pid))
        victim.kill()
        self.kernels[place] = self._kernel()

    def _stop_kernel(self) -> None:
        victim = self.random.choice(self.kernels)
        seconds = self._nap()
        self._tell(f"stop kernel {victim.pid} for {seconds:.2f} s")
        self._mark(seconds, victim.pid)
        victim.signal(signal.SIGSTOP)
        self._in(seconds, lambda: victim.running and victim.signal(signal.SIGCONT))  # type: ignore[func-returns-value]

    def _kill_slot(self) -> None:
        if slot := self._slot():
            self._tell(f"kill slot process {slot}")
            self._mark(0.0, slot)
            _signal(slot, signal.SIGKILL)

    def _stop_slot(self) -> None:
        if slot := self._slot():
            seconds = self._nap()
            self._tell(f"stop slot process {slot} for {seconds:.2f} s")
            self._mark(seconds, slot)
            _signal(slot, signal.SIGSTOP)
            self._in(seconds, lambda: _signal(slot, signal.SIGCONT))

    def _kill_client(self) -> None:
        if running := [n for n, c in self.clients.items() if c.running]:
            number = self.random.choice(running)
            self._tell(f"kill client {number}")
            self.clients[number].kill()
            self._client(number)

    def _stop_client(self) -> None:
        if running := [c for c in self.clients.values() if c.running]:
            victim = self.random.choice(running)
            seconds = self._nap()
            self._tell(f"stop client {victim.pid} for {seconds:.2f} s")
            victim.signal(signal.SIGSTOP)
            self._in(seconds, lambda: victim.running and victim.signal(signal.SIGCONT))  # type: ignore[func-returns-value]

    def _harm_links(self, how: str, door: str) -> None:
        seconds = 0.0 if how == "cut" else self._nap()
        share = self.random.choice((0.4, 1.0))
        self._tell(
            f"{how} {share:.0%} of the connections of {door}" + (f" for {seconds:.2f} s" if seconds else "")
        )
        self.harms.links.append(self._span(seconds))
        times = (seconds,) if seconds else ()
        getattr(self.proxy, how)(door, share, *times, self.random)

    def _nap(self) -> float:
        return self.random.uniform(0.2, 2.5) * self.size.lease

    def _slot(self) -> int | None:
        slots = [slot for kernel in self.kernels if kernel.running for slot in slots_of(kernel.pid)]
        return self.random.choice(slots) if slots else None

    def _span(self, seconds: float) -> tuple[float, float]:
        """A harm of *seconds*, and the lease in which others find out about it."""
        now = time.monotonic()
        return now, now + seconds + self.size.lease

    def _mark(self, seconds: float, *processes: int) -> None:
        for process in processes:
            self.harms.others[process].append(self._span(seconds))


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)
