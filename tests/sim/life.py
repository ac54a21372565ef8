"""A life of a world, made up from a seed: jobs of all kinds come, everything happens, and in the end all is well."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from park.broker.entities.archive import RetentionPolicy
from park.model import JobState, Serves
from park.wire import codec, messages
from tests.sim.client import Client, Request, SessionMap
from tests.sim.functions import ERROR, expected, units
from tests.sim.world import World

Chance = tuple[int, Callable[[], None]]


class Life:
    """One random life of a world."""

    def __init__(self, seed: int, world: World | None = None) -> None:
        self.random = random.Random(f"life {seed}")
        self.world = world or World(seed, keep=RetentionPolicy(jobs=self.random.choice([0, 3, 10_000])))
        #: accepted or not: who asked, and what
        self.asked: list[tuple[Client, Request, list[Any]]] = []
        self.sessions: list[tuple[Client, Request]] = []
        self.maps: list[SessionMap] = []
        self.told: set[int] = set()
        #: jobs that somebody wanted to be deleted
        self.unwanted: set[int] = set()
        self.unrepeatable: set[int] = set()
        #: controls of jobs that wait for some: the client, the job, what it said, and whether it was taken
        self.said: list[tuple[Client, int, int, Request]] = []
        #: clients that have inputs to bring: client, request, the rest of them
        self.feeds: list[tuple[Client, Request, list[Any]]] = []
        self.numbers: dict[bytes, int] = {}
        self.kills_left = 2
        #: processes die as often as units may kill them: any unit may fail
        self.fragile = False
        #: the seconds from the last accident until everything had ended
        self.took = 0.0
        #: jobs that have ended: in which state, and with which results
        self.ended: dict[int, tuple[JobState, list[Any]]] = {}
        self.world.client("ann")
        self.world.client("bob")
        for _ in range(3):
            kernel = self.world.kernel(self.random.choice([1, 1, 2, 3]))
            kernel.owner, kernel.gpus = self.random.choice(["", "bob"]), self.random.choice([0, 1, 2])

    def run(self, happenings: int = 20, events: int = 300) -> World:
        """Run at least this number of *happenings* and of *events* for the dispatcher, one of which is its death."""
        world = self.world
        self.submit_some("broad", None)  # a driver whose map is of drivers
        self.submit_some("heeds", self.random.choice([None, [2, 4]]))
        count = 0
        while count < happenings or world.events < 0.7 * events or not world.broker_deaths:
            count += 1
            if count == happenings // 2:
                self.doom()
            self.happen()
            for _ in range(self.random.choice([0, 3, 10, 30, 90])):
                world.step()
            self.see_accepted()
        self.end(events)
        return world

    def happen(self) -> None:
        chances = self.chances()
        self.random.choices(chances, [chance for chance, _ in chances])[0][1]()

    def chances(self) -> list[Chance]:
        """The events that may happen, with their frequencies."""
        return [
            (10, self.submit),
            (3, self.submit_open),
            (3, self.open_session),
            (5, self.map),
            (3, self.tell),
            (10, self.control),
            (2, self.delete),
            (2, self.cancel),
            (2, self.close_session),
            (3, self.cut),
            (2, self.lose_kernel),
            (2, self.drain_kernel),
            (3, self.pause_kernel),
            (1, self.lose_client),
            (2, self.join),
            (2, self.kill),
            (2, self.doom),
            (2, self.say_twice),
            (2, self.echo),
            (2, self.hold_up),
            (2, self.deafen),
            (3, self.jump),
            (2, self.fill),
            (2, self.set_clock),
        ]

    # -- what happens ----------------------------------------------------------------------------

    def client(self) -> Client:
        return self.random.choice(self.world.clients or [self.world.client("ann")])

    def known(self) -> list[int]:
        return list(self.numbers.values())

    def submit(self) -> None:
        name, inputs = self.random.choice(
            [
                ("square", list(range(self.random.randint(0, 40)))),
                ("square", [1]),
                ("fails", list(range(1, self.random.randint(2, 9)))),
                ("kills", list(range(1, self.random.randint(2, 12)))),
                ("aborts", [1, 2]),
                ("driver", None),
                ("driver", [1, 2, 3]),
                ("nest", [3, 1]),
                ("chain", [5]),
                ("broad", None),
                ("unlucky", None),
                ("hopeful", None),
                ("serial", [20, 50]),
                ("serial", None),
                ("saver", None),
                ("saver", [20, 3]),
                ("heeds", None),
                ("heeds", [1, 4, 2]),
            ]
        )
        fields: dict[str, Any] = {"priority": self.random.choice([-3, 0, 0, 4])}
        if self.known() and self.random.random() < 0.3:
            fields["after"] = sorted(set(self.random.choices(self.known(), k=2)))
        if self.random.random() < 0.1:
            fields["when"] = self.world.wall + self.random.uniform(-1, 40)
        if self.random.random() < 0.15:
            fields["on_error"] = "stop"
        if self.random.random() < 0.15:
            fields["idempotent"] = False
        elif self.random.random() < 0.4:
            fields["pure"] = True
        if self.random.random() < 0.1:
            fields["max_time"] = self.random.uniform(0.01, 20.0)
        if self.random.random() < 0.1:
            fields["max_unit_time"] = self.random.uniform(0.001, 1.0)
        if self.random.random() < 0.2:
            fields["gpus"] = self.random.choice([0.3, 0.5, 1.0, 2.0])
        self.submit_some(name, inputs, **fields)

    def submit_some(self, name: str, inputs: list[Any] | None, **fields: Any) -> Request:
        client = self.client()
        request = client.submit(name, inputs, **fields)
        self.asked.append((client, request, [None] if inputs is None else inputs))
        return request

    def submit_open(self) -> None:
        client = self.client()
        first, rest = [1, 2], list(range(3, self.random.randint(3, 20)))
        request = client.submit("square", first, closed=False)
        self.asked.append((client, request, first + rest))
        self.feeds.append((client, request, rest))

    def open_session(self) -> None:
        client = self.client()
        self.sessions.append((client, client.session()))

    def map(self) -> None:
        ready = [(c, r) for c, r in self.sessions if r.done and c in self.world.clients]
        if ready:
            client, request = self.random.choice(ready)
            name = self.random.choice(["square", "driver", "nest", "kills"])
            given = list(range(self.random.randint(1, 6)))
            rest = [[], [given, given]][self.random.random() < 0.3]
            self.maps.append(client.map(request, name, given, *rest))

    def tell(self) -> None:
        if self.known():
            number = self.random.choice(self.known())
            kind = self.random.choice([messages.Stop, messages.Abort])
            self.client().ask(kind(0, number))
            self.told.add(number)

    def heeding(self) -> list[int]:
        """Jobs that wait for controls."""
        return [r.job for _, r, _ in self.asked if r.done and r.message.name == "heeds"]

    def control(self) -> None:
        """Somebody says something to such a job, and waits until it is taken."""
        client = self.client()
        if self.heeding() and all(r.done for c, _, _, r in self.said if c is client):
            self.say(client, self.random.choice(self.heeding()))

    def say(self, client: Client, job: int) -> None:
        said = len(self.said) + 1
        key = self.world.random.randbytes(16)
        self.said.append((client, job, said, client.ask(messages.Control(job, key=key), codec.pack(said))))

    def delete(self) -> None:
        if self.known():
            number = self.random.choice(self.known())
            self.client().ask(messages.Delete(0, number))
            self.unwanted.add(number)

    def cancel(self) -> None:
        open_maps = [(c, m) for c in self.world.clients for m in c.maps.values() if not m.done]
        if open_maps:
            client, made = self.random.choice(open_maps)
            client.cancel(made)

    def close_session(self) -> None:
        ready = [(c, r) for c, r in self.sessions if r.done and c in self.world.clients]
        if ready:
            client, request = self.random.choice(ready)
            self.sessions.remove((client, request))
            client.close_session(request, self.random.choice(["", "enough"]))

    def cut(self) -> None:
        self.world.cut(self.random.choice(self.world.peers))

    def lose_kernel(self) -> None:
        if self.world.kernels:
            self.random.choice([self.world.lose, self.world.leave])(self.random.choice(self.world.kernels))

    def drain_kernel(self) -> None:
        """Let a kernel leave in good order: its own user or a client asks for it."""
        grace = self.random.choice([0.0, 1.0, 10.0])
        if self.world.kernels and self.random.random() < 0.5:
            self.random.choice(self.world.kernels).drain(grace)
        elif self.world.dispatcher.state.roster.kernels:
            number = self.random.choice(
                [k.number for k in self.world.dispatcher.state.roster.kernels.values()]
            )
            self.client().ask(messages.Drain(0, number, grace, self.world.dispatcher.state.epoch))

    def pause_kernel(self) -> None:
        """The user of a desktop comes to the keyboard, or goes away."""
        if self.world.kernels:
            kernel = self.random.choice(self.world.kernels)
            kernel.serve(self.random.choice([serves for serves in Serves if kernel.owner or serves != "own"]))

    def lose_client(self) -> None:
        if len(self.world.clients) > 1:
            self.random.choice([self.world.lose, self.world.leave])(self.random.choice(self.world.clients))

    def join(self) -> None:
        if len(self.world.kernels) < 4:
            self.world.kernel(self.random.choice([1, 2])).gpus = self.random.choice([0, 2])

    def kill(self) -> None:
        processes = [(k, p) for k in self.world.kernels for p in k.processes.values()]
        if processes and self.kills_left:
            self.kills_left -= 1
            kernel, process = self.random.choice(processes)
            kernel.die(process, "its process was killed by signal 9 (SIGKILL)")

    def doom(self) -> None:
        self.world.doom = self.random.choice(["decided", "committed"])

    def say_twice(self) -> None:
        """Messages on their way arrive twice."""
        for peer in self.world.peers:
            if peer.wire.up and self.random.random() < 0.5:
                peer.wire.put_up(peer.wire.up[0])

    def echo(self) -> None:
        """An answer comes again, long after the first, and perhaps after its lease."""
        for kernel in self.world.kernels:
            if kernel.answers and self.random.random() < 0.5:
                kernel.wire.put_up(self.random.choice(kernel.answers))

    def hold_up(self) -> None:
        """A connection carries nothing for a while, perhaps for longer than a lease."""
        self.random.choice(self.world.peers).wire.hold_up(self.random.choice([0.5, 5.0, 30.0]))

    def deafen(self) -> None:
        """Some of what is published is lost."""
        self.world.loss = self.random.choice([0.0, 0.1, 0.5, 0.9])

    def fill(self) -> None:
        """The disk is full, or there is room again."""
        self.world.shelf.full = not self.world.shelf.full

    def jump(self) -> None:
        """All processes stand still for a while: leases may end."""
        self.world.now += self.random.choice([1.0, 5.0, 25.0])

    def set_clock(self) -> None:
        """The wall clock jumps, by an hour or a day."""
        self.world.set_clock(self.random.choice([-86400.0, -3600.0, 3600.0, 86400.0]))

    def see_accepted(self) -> None:
        for asked in list(self.asked):
            request = asked[1]
            if request.done and isinstance(request.answer, messages.Failure):
                assert request.answer.error == "UnknownJob"
                assert set(request.message.after) & self.unwanted
                self.asked.remove(asked)
        for client, request, _ in self.asked:
            if request.done:
                if request.message.name == "saver":
                    client.follow(request.job)
                key = request.message.key
                assert self.numbers.setdefault(key, request.job) == request.job
                if not request.message.idempotent:
                    self.unrepeatable.add(request.job)
                if request.message.max_time:
                    self.told.add(request.job)
        for feed in list(self.feeds):
            client, request, rest = feed
            if request.done:
                self.feeds.remove(feed)
                client.ask(messages.Units(2, len(rest), True, job=request.job), units(rest))

    # -- the end ---------------------------------------------------------------------------------

    def end(self, events: int) -> None:
        """No more accidents: everything ends."""
        world = self.world
        began = world.now
        world.doom = ""
        world.shelf.full = False
        world.kernel(2).gpus = 2  # the others may all be about to leave
        # the time of all jobs that wait for one has come, however the clock was set before
        world.set_clock(30 * 86400.0)
        last = world.client("ann")
        world.until(lambda: all(r.done for c, r, _ in self.asked if c in world.clients))
        self.see_accepted()
        world.until(lambda: not any(c.requests for c in world.clients))
        for number, job in world.dispatcher.state.jobs.items():
            for _ in range(20 if job.record.name == "heeds" else 0):
                self.say(last, number)
        for number, job in world.dispatcher.state.jobs.items():
            if job.root is not None and not job.root.closed:  # its client is gone, and so was the broker then
                last.ask(messages.Abort(0, number))
                self.told.add(number)
        world.until(lambda: all(r.done for c, r in self.sessions if c in world.clients))
        world.until(lambda: all(m.done for c in world.clients for m in c.maps.values()))
        for client, request in self.sessions:
            if client in world.clients:
                client.close_session(request)
        world.until(lambda: all(j.ended for j in world.dispatcher.state.jobs.values()))
        while world.events < events:
            self.submit_some("broad", None)
            world.until(lambda: not any(c.requests for c in world.clients))
            self.see_accepted()
            world.until(lambda: all(j.ended for j in world.dispatcher.state.jobs.values()))
        world.now += 1.0
        world.until(lambda: not any(c.requests for c in world.clients))
        world.now += 1.0
        world.until(lambda: not world.manager.store.count("trash"))
        # attempts that no client waits for
        world.until(
            lambda: not world.dispatcher.state.attempts and not world.dispatcher.state.recovery.orphans
        )
        world.until(
            lambda: (
                not any(
                    k.machine.state.attempts or k.machine.state.answers.stored or k.machine.state.published
                    for k in world.kernels
                )
            )
        )
        world.until(lambda: math.isinf(world.dispatcher.state.job_list.next_deadline()))
        world.loss = 0.0
        world.until(lambda: all(w.current for w in world.watchers))
        world.settle()
        # the session of a client that is gone, if its request was held up: it ends with the client's lease
        world.until(lambda: all(j.ended for j in world.dispatcher.state.jobs.values()))
        world.until(
            lambda: not any(k.machine.state.attempts or k.machine.state.answers.stored for k in world.kernels)
        )  # messages that were held up
        world.until(lambda: math.isinf(world.dispatcher.state.job_list.next_deadline()))
        self.took = world.now - began
        world.check_nothing_is_left()
        self.check_results()
        world.restart_broker()
        assert all(j.ended for j in world.dispatcher.state.jobs.values())
        self.check_results()

    def check_heard(self, job: int, results: list[Any]) -> None:
        """All units have heard the same, and of what each client said nothing twice, in another order, or with a gap."""
        heard = sorted((r for r in results if isinstance(r, list)), key=len)
        assert all(r == heard[-1][: len(r)] for r in heard), (job, results)
        for client in {c for c, _, _, _ in self.said}:
            # a control that the full disk has refused counts from when it is said again
            controls = sorted((r.order, said) for c, j, said, r in self.said if (c, j) == (client, job))
            mine = [said for _, said in controls]
            got = [said for said in heard[-1] if said in mine] if heard else []
            assert got == mine[: len(got)], (job, client, results)
        assert not heard or set(heard[-1]) <= {said for _, j, said, _ in self.said if j == job}

    def check_results(self) -> None:
        """Everything has ended, and `check_safe` holds."""
        for client, request, _ in self.asked:
            assert request.done or client not in self.world.clients, request.message
        self.check_safe()

    def check_safe(self) -> None:
        """All outcomes so far are right, and nothing is lost that was acknowledged.

        The broker has just begun: what it knows is what is on disk.
        """
        for _, request, inputs in self.asked:
            if request.done:
                self._check_job(request, inputs)
        for made in self.maps:
            self._check_map(made)
        for _, number, _, said in self.said:
            job = self.world.job(number) if said.done and isinstance(said.answer, messages.Done) else None
            if job is not None and not job.ended:
                assert said.message.key in job.controls, (job.record, said.message)

    def _check_job(self, request: Request, inputs: list[Any]) -> None:
        job = self.world.job(request.job)
        if job is None:
            assert request.job in self.unwanted
            return
        got = self.world.result(request.job)
        if request.message.name == "heeds":
            self.check_heard(request.job, got)
            right = [g if isinstance(g, list) else [] for g in got]
            assert all(len(g) == (x or 12) for g, x in zip(right, inputs, strict=True) if g), got
        else:
            right = [expected(request.message.name, x) for x in inputs]
        may_fail = self.fragile or request.job in self.unrepeatable or request.message.max_unit_time
        excused = [ERROR] if may_fail else []  # one kill is enough, or a moment too long
        assert all(g in (None, r, *excused) for g, r in zip(got, right, strict=False)), (job.record, got)
        self._check_end(job, request, got, right, bool(may_fail))
        assert job.record.done == sum(g is not None for g in got)
        assert job.record.failed == got.count(ERROR)

    def _check_end(
        self, job: Any, request: Request, got: list[Any], right: list[Any], may_fail: bool
    ) -> None:
        """The job's state is that of its results, and one that has ended never changes."""
        state = job.state
        if state is JobState.COMPLETE and not job.record.stopped:
            assert got == right, (job.record, got)
        elif state is JobState.FAILED:
            whole = got == right and ERROR in got
            after = any(
                other is None or other.state in (JobState.FAILED, JobState.ABORTED)
                for other in map(self.world.job, job.record.after)
            )
            early = request.message.on_error == "stop" and ERROR in got
            unfed = not request.message.closed
            stopped = job.number in self.told and ERROR in got
            assert whole or after or early or unfed or stopped or may_fail, (job.record, got)
        elif state is JobState.ABORTED:
            assert job.number in self.told, job.record
        if job.ended:
            assert self.ended.setdefault(job.number, (state, got)) == (state, got), job.record

    def _check_map(self, made: SessionMap) -> None:
        right = [expected(made.name, x) for x in range(made.message.count)]
        excused = [ERROR] if self.fragile else []
        for unit, value in made.results.items():
            assert value in (right[unit % len(right)], *excused), (made.name, unit, value)
        if made.failure is not None:  # sessions go on, whatever happens to their broker or their connection
            assert made.failure.text in ("cancelled", "closed"), made.failure
        elif made.done:
            assert sorted(made.results) == [*range(made.call.total)]
