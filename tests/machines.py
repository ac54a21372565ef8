"""A small world without sockets, threads or clocks: the real broker, real kernel machines, made-up processes.

`World` joins a real `JobManager`, real `Lifecycle` and `Presence` objects and made-up clients and slot processes by
queues of encoded frames. Time moves only by hand, and only to the next deadline that somebody names. A connection
is first in, first out, until it is cut; then all that was on its way is lost, and the next message comes from a
peer that the broker does not know, as with ZeroMQ. A broker may die between its decision and its commit.

The made-up process does what `park.kernel.slot` does with messages, and "runs" units in steps of one. Its
functions are those in `FUNCTIONS`: plain ones, and generators, which are drivers: they yield a function's
name and inputs, and get the results.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from park.core.dispatcher import Dispatcher
from park.core.manager import JobManager
from park.core.outcome import Account, Event, Outcome, Send, Tick
from park.core.store import MemoryStore, Store
from park.kernel.lifecycle import Action, Interrupt, Kill, Let, Lifecycle, Start, ToBroker, ToSlot
from park.model import JobRecord
from park.wire import codec, messages, pack
from park.wire.contact import Contact, Presence
from park.wire.messages import Message

PYTHON = "3.11"
#: What the wall clock shows when the world begins.
WALL = 1_700_000_000.0

# -- what runs -------------------------------------------------------------------------------------


class Failed(Exception):
    """A unit raised."""


class Crash(Exception):
    """A unit killed its process."""


class Abort(Exception):
    """The process raises this in what it runs, as park.Abort."""


def square(x: int) -> int:
    return x * x


def fails(x: int) -> int:
    if x % 3 == 0:
        raise Failed(f"{x} is a multiple of three")
    return x


def kills(x: int) -> int:
    if x % 7 == 3:
        raise Crash
    return -x


def aborts(x: int) -> int:
    raise Abort


def driver(x: int | None) -> Iterator[Any]:
    total = x or 0
    for generation in range(3):
        total += sum((yield "square", [total % 10, generation, 3]))
    return total


def nest(depth: int) -> Iterator[Any]:
    if depth <= 0:
        return 1
    return 1 + sum((yield "nest", [depth - 1] * 2))


def chain(depth: int) -> Iterator[Any]:
    if depth <= 0:
        return 0
    return 1 + sum((yield "chain", [depth - 1]))


def broad(x: int | None) -> Iterator[Any]:
    return sum((yield "driver", [1, 2, 3, 4, 5, 6]))


def unlucky(x: int | None) -> Iterator[Any]:
    return sum((yield "kills", [1, 2, 3]))


def hopeful(x: int | None) -> Iterator[Any]:
    first = yield "square", [1, 2]
    try:
        yield "kills", [3, 4]
    except Failed:
        return sum(first) + 100
    return 0


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (square, fails, kills, aborts, driver, nest, chain, broad, unlucky, hopeful)
}


@dataclass(frozen=True)
class Error:
    """Stands for a unit that failed."""


ERROR = Error()


def expected(name: str, x: Any) -> Any:
    """What the function gives in a world without accidents."""
    function = FUNCTIONS[name]
    try:
        if not inspect.isgeneratorfunction(function):
            return function(x)
        made = function(x)
        answer: Any = None
        try:
            step = made.send(None)
            while True:
                answer = [expected(step[0], i) for i in step[1]]
                step = made.throw(Failed()) if ERROR in answer else made.send(answer)
        except StopIteration as end:
            return end.value
    except (Failed, Crash, Abort):
        return ERROR


def blob(name: str) -> bytes:
    return b"code of " + name.encode()


def code(name: str) -> bytes:
    return hashlib.blake2b(blob(name), digest_size=16).digest()


NAMES = {code(name): name for name in FUNCTIONS}


def units(values: list[Any]) -> bytes:
    return pack.pack_entries([codec.pack(v) for v in values])


def entry(value: Any, unit: int = 0) -> bytes:
    return pack.error_entry("it failed", "", unit) if value is ERROR else b"v" + codec.pack(value)


def values(data: Any) -> list[Any]:
    """The values in a pack of results."""
    entries = [bytes(e) for e in pack.Pack(data).entries()]
    return [ERROR if e[:1] == pack.ERROR else codec.unpack(e[1:]) for e in entries]


def carried(message: Message, payload: Any = b"") -> tuple[Message, Any]:
    """The message as it comes out at the other end."""
    return codec.decode(codec.encode(message, payload))


# -- one dispatcher alone --------------------------------------------------------------------------


class Desk:
    """A dispatcher and a hand that gives it messages: for tests that look at single outcomes."""

    def __init__(self, **options: Any) -> None:
        self.dispatcher = Dispatcher("store", **options)
        self.now = 0.0
        self.ids = itertools.count(1)
        self.tick()

    def tick(self, seconds: float = 0.0) -> Outcome:
        self.now += seconds
        return self._checked(self.dispatcher.handle(Tick(WALL + self.now), self.now))

    def give(
        self, peer: bytes, message: Message, payload: Any = b"", account: Account | None = None
    ) -> Outcome:
        event = Event(peer, *carried(message, payload), account)
        return self._checked(self.dispatcher.handle(event, self.now))

    def _checked(self, out: Outcome) -> Outcome:
        self.dispatcher.check()
        return out

    def client(
        self, name: str = "c1", user: str = "ann", python: str = PYTHON, account: Account | None = None
    ) -> bytes:
        self.give(name.encode(), messages.Hello(name.encode() * 8, user, python), account=account)
        return name.encode()

    def kernel(
        self, name: str = "k1", slots: int = 1, python: str = PYTHON, account: Account | None = None
    ) -> bytes:
        hello = messages.KernelHello(name.encode() * 8, "kay", "node", 1, slots, python)
        self.give(name.encode(), hello, account=account)
        return name.encode()

    def submit(self, peer: bytes, name: str = "square", inputs: Any = (1,), **fields: Any) -> Outcome:
        """inputs None: once."""
        self.give(peer, messages.Blob(code(name)), blob(name))
        number = next(self.ids)
        submit = messages.Submit(
            id=number,
            key=number.to_bytes(16, "big"),
            body=code(name),
            python=PYTHON,
            once=inputs is None,
            count=len(inputs or ()),
        )
        return self.give(peer, replace(submit, **fields), units(list(inputs or ())))

    def session(self, peer: bytes) -> int:
        number = next(self.ids)
        submit = messages.Submit(id=number, key=number.to_bytes(16, "big"), session=True, python=PYTHON)
        return accepted(self.give(peer, submit))

    def job(self, number: int) -> JobRecord:
        return self.dispatcher.list.jobs[number].record


def of(out: Outcome, kind: type[Any]) -> list[Any]:
    """The messages of one kind that *out* sends."""
    return [s.message for s in out.sends + out.sends_after_commit if isinstance(s.message, kind)]


def accepted(out: Outcome) -> int:
    (message,) = of(out, messages.Accepted)
    return message.job


def finished(run: messages.Run, results: list[Any] | None = None, **fields: Any) -> tuple[Message, bytes]:
    """The answer of a kernel to *run*; by default all its units gave 0."""
    got = [0] * run.count if results is None else results
    message = messages.Finished(
        run.attempt, run.map, run.start, len(got), 0.0, failed=got.count(ERROR), epoch=run.epoch
    )
    return replace(message, **fields), pack.pack_entries([entry(v, run.start + i) for i, v in enumerate(got)])


# -- connections -----------------------------------------------------------------------------------


class Wire:
    """A peer's connection: two queues of frames, and the routing id that the broker sees."""

    def __init__(self, world: World, side: bytes) -> None:
        self._world = world
        self._side = side
        self.cut()

    def cut(self) -> None:
        """All that is on its way is lost; the broker will see another peer."""
        self.peer = self._side + b"%d" % next(self._world.numbers)
        self.up: deque[list[Any]] = deque()
        self.down: deque[list[Any]] = deque()

    def send(self, message: Message, payload: Any = b"") -> None:
        self.up.append(codec.encode(message, payload))

    def receive(self) -> tuple[Message, Any] | None:
        return codec.decode(self.down.popleft()) if self.down else None


class Peer:
    """What clients and kernels have in common: they keep contact."""

    side: bytes

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.wire = Wire(world, self.side)
        self.presence = Presence()
        self.incarnation = world.random.randbytes(16)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def send(self, message: Message, payload: Any = b"") -> None:
        self.presence.say(self.world.now)
        self.wire.send(message, payload)

    def turn(self) -> bool:
        """Take at most one message; whether anything happened."""
        moved = False
        got = self.wire.receive()
        if got is not None:
            moved = True
            self.presence.hear(got[0], self.world.now)
            self.take(*got)
        due = self.presence.due(self.world.now)
        if due:
            moved = True
            self.send(self.hello() if due == "hello" else self.heartbeat())
        return moved

    def deadline(self) -> float:
        return self.presence.deadline()

    def take(self, message: Message, payload: Any) -> None:
        raise NotImplementedError

    def hello(self) -> Message:
        raise NotImplementedError

    def heartbeat(self) -> Message:
        return messages.Heartbeat(self.presence.epoch)


# -- kernels ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class Frame:
    """An attempt on a process's stack."""

    run: messages.Run
    inputs: list[Any]
    results: list[Any] = field(default_factory=list)
    maker: Any = None
    #: what it waits for
    map: bytes = b""
    got: list[Any] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)
    resumed: bool = False
    stopped: bool = False
    aborted: bool = False


class Process:
    """A made-up slot process."""

    def __init__(self, kernel: Kernel, number: int) -> None:
        self.kernel = kernel
        self.number = number
        self.codes: dict[bytes, Any] = {}
        self.shipped: set[bytes] = set()
        self.stack: list[Frame] = []
        self.interrupted = False
        self.deaf = False

    def tell(self, message: Message, payload: Any = b"") -> None:
        self.kernel.carry(self.kernel.life.slot(self.number, *carried(message, payload)))

    def take(self, message: Message, payload: Any) -> None:
        match message:
            case messages.Blob():
                self.codes[message.hash] = payload
            case messages.Run():
                assert not self.stack or self.stack[-1].map == message.map, (
                    "only inside a driver that waits for it"
                )
                assert not (self.stack and message.apart), "it has killed a process"
                inputs = [None] if message.once else [codec.unpack(e) for e in pack.Pack(payload).entries()]
                assert len(inputs) == message.count
                assert bytes(self.codes[message.function]) == blob(NAMES[message.function])
                self.stack.append(Frame(message, inputs))
                self.kernel.world.runs[message.job] += 1
            case messages.Stop() | messages.Abort():
                for frame in self.stack:
                    if frame.run.attempt == message.attempt:
                        frame.stopped |= isinstance(message, messages.Stop) and not message.soft
                        frame.aborted |= isinstance(message, messages.Abort)
            case messages.Results():
                frame = next(f for f in self.stack if f.run.attempt == message.attempt)
                assert frame.map == message.map
                for unit, value in enumerate(values(payload), message.start):
                    frame.missing.remove(unit)  # KeyError: it came twice
                    frame.got[unit] = value
                frame.resumed |= message.resume
            case messages.Resume():
                frame = next(f for f in self.stack if f.run.attempt == message.attempt)
                assert not frame.missing
                frame.resumed = True

    def interrupt(self) -> None:
        """The signal: it means something only while a unit's code runs."""
        self.interrupted = bool(self.stack) and not self.stack[-1].map

    def step(self) -> bool:
        """Run one unit, or to the next map; whether anything happened."""
        if not self.stack or self.deaf:
            return False
        frame = self.stack[-1]
        if frame.map and not frame.aborted and (frame.missing or not frame.resumed):
            return False
        try:
            if frame.aborted or (self.interrupted and not frame.map):
                raise Abort
            self._advance(frame)
        except Abort:
            self._finish(frame, "abort")
        except Crash:
            self.kernel.die(self, "its process was killed by signal 11 (SIGSEGV)")
        return True

    def _advance(self, frame: Frame) -> None:
        function = FUNCTIONS[NAMES[frame.run.function]]
        try:
            if frame.map:
                got, frame.map, frame.resumed = frame.got, b"", False
                made = frame.maker.throw(Failed("a unit failed")) if ERROR in got else frame.maker.send(got)
            elif frame.stopped or len(frame.results) == frame.run.count:
                self._finish(frame, "stop" if len(frame.results) < frame.run.count else "")
                return
            elif inspect.isgeneratorfunction(function):
                frame.maker = function(frame.inputs[len(frame.results)])
                made = frame.maker.send(None)
            else:
                frame.results.append(function(frame.inputs[len(frame.results)]))
                return
        except StopIteration as end:
            frame.results.append(end.value)
            return
        except Failed:
            frame.results.append(ERROR)
            return
        self._map(frame, *made)

    def _map(self, frame: Frame, name: str, inputs: list[Any]) -> None:
        if code(name) not in self.shipped:
            self.shipped.add(code(name))
            self.codes[code(name)] = blob(name)
            self.tell(messages.Blob(code(name)), blob(name))
        frame.map = self.kernel.world.random.randbytes(16)
        frame.got, frame.missing = [None] * len(inputs), set(range(len(inputs)))
        run = frame.run
        message = messages.Map(frame.map, run.job, code(name), len(inputs), attempt=run.attempt)
        self.tell(message, units(inputs))

    def _finish(self, frame: Frame, ended: str) -> None:
        self.interrupted = False
        self.stack.pop()
        message, data = finished(
            frame.run, [] if ended == "abort" else frame.results, ended=ended, seconds=0.001
        )
        self.tell(replace(message, cause="it failed" if message.failed else ""), data)


class Kernel(Peer):
    """A real lifecycle with made-up processes."""

    side = b"k"

    def __init__(self, world: World, name: str, slots: int = 1, python: str = PYTHON) -> None:
        super().__init__(world, name)
        self.python = python
        self.life = Lifecycle(slots)
        self.processes: dict[int, Process] = {}
        self.carry(self.life.begin())

    def hello(self) -> Message:
        return messages.KernelHello(
            incarnation=self.incarnation,
            user="kay",
            host=self.name,
            pid=1,
            slots=self.life.slots,
            python=self.python,
            attempts=self.life.holds,
            epoch=self.presence.epoch,
        )

    def heartbeat(self) -> Message:
        return messages.Heartbeat(self.presence.epoch, self.life.holds)

    def take(self, message: Message, payload: Any) -> None:
        self.carry(self.life.broker(message, payload, self.world.now))

    def turn(self) -> bool:
        self.carry(self.life.tick(self.world.now))
        moved = super().turn()
        self.life.check()
        return moved

    def deadline(self) -> float:
        return min(d for d in (super().deadline(), self.life.deadline()) if d is not None)

    def carry(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case ToBroker(message, payload):
                    self.send(message, payload)
                case ToSlot(number, message, payload):
                    if number in self.processes:  # else it was killed a moment ago
                        self.processes[number].take(*carried(message, payload))
                case Start(number, _):
                    self.processes[number] = Process(self, number)
                case Interrupt(number):
                    self.processes[number].interrupt()
                case Let(number):
                    self.die(self.processes[number], "its process exited with code 0")
                case Kill(number):
                    self.die(self.processes[number], "its process was killed by signal 9 (SIGKILL)")
        self.life.check()

    def die(self, process: Process, cause: str) -> None:
        if self.processes.pop(process.number, None) is not None:
            self.world.deaths += 1
            self.carry(self.life.exited(process.number, cause, "last words"))


# -- clients ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class Request:
    """A request of a client, and what came back."""

    message: Any
    payload: Any
    code: str = ""
    answers: list[tuple[Any, Any]] = field(default_factory=list)
    done: bool = False

    @property
    def answer(self) -> Any:
        assert self.done
        return self.answers[-1][0]

    @property
    def job(self) -> int:
        assert isinstance(self.answer, messages.Accepted), self.answer
        return int(self.answer.job)

    @property
    def record(self) -> JobRecord:
        return JobRecord.from_map(self.answer.record)

    @property
    def results(self) -> list[Any]:
        """Of a Fetch: the results by unit; none is there twice."""
        record = self.record
        got: dict[int, Any] = {}
        for message, data in self.answers[:-1]:
            if isinstance(message, messages.Results):
                for unit, value in enumerate(values(data), message.start):
                    assert unit not in got, f"unit {unit} was answered twice"
                    got[unit] = value
        return [got.get(u) for u in range(record.total if record.total is not None else 1)]


@dataclass(eq=False)
class SessionMap:
    """A map of a session, and what came of it."""

    message: messages.Map
    payload: Any
    name: str
    results: dict[int, Any] = field(default_factory=dict)
    failure: messages.MapFailed | None = None

    @property
    def done(self) -> bool:
        return self.failure is not None or len(self.results) == self.message.count


class Client(Peer):
    """A made-up link: it sends requests until they are answered, and maps of sessions again after a cut."""

    side = b"c"

    def __init__(self, world: World, name: str, user: str = "ann") -> None:
        super().__init__(world, name)
        self.user = user
        self._ids = itertools.count(1)
        self._known: set[str] = set()
        self.requests: dict[int, Request] = {}
        self.maps: dict[bytes, SessionMap] = {}
        self.streams: list[tuple[str, Any]] = []

    def hello(self) -> Message:
        return messages.Hello(self.incarnation, self.user, PYTHON)

    def take(self, message: Message, payload: Any) -> None:
        match message:
            case messages.Welcome():
                if message.fresh:
                    self._known.clear()
                    for call in self.maps.values():
                        call.failure = call.failure or messages.MapFailed(b"", "ServiceClosed", "gone")
                for request in list(self.requests.values()):
                    self._say(request)
                for call in self.maps.values():
                    if not call.done:
                        self._say_map(call)
            case messages.NeedBlob():
                self._known.discard(NAMES[message.hash])
                for request in [r for r in self.requests.values() if r.code == NAMES[message.hash]]:
                    self._say(request)
                for call in self.maps.values():
                    if call.name == NAMES[message.hash] and not call.done:
                        self._say_map(call)
            case messages.MapFailed():
                self.maps[message.map].failure = message
            case messages.Stream():
                self.streams.append((message.kind, payload))
            case messages.Results() if not message.reply:
                for unit, value in enumerate(values(payload), message.start):
                    self.maps[message.map].results[unit] = value
        reply = getattr(message, "reply", 0) or (message.id if isinstance(message, messages.Units) else 0)
        request = self.requests.get(reply)
        if request is not None and not isinstance(message, messages.Welcome):
            request.answers.append((message, payload))
            if not isinstance(message, messages.Results | messages.Blob | messages.Units):
                request.done = True
                del self.requests[reply]

    def ask(self, message: Any, payload: Any = b"", name: str = "") -> Request:
        request = Request(replace(message, id=next(self._ids)), payload, name)
        self.requests[request.message.id] = request
        if self.presence.state is Contact.LIVE:
            self._say(request)
        return request

    def _say(self, request: Request) -> None:
        request.answers.clear()
        self._ship(request.code)
        self.send(request.message, request.payload)

    def _ship(self, name: str) -> None:
        if name and name not in self._known:
            self._known.add(name)
            self.send(messages.Blob(code(name)), blob(name))

    def _say_map(self, call: SessionMap) -> None:
        self._ship(call.name)
        self.send(call.message, call.payload)

    def submit(self, name: str, inputs: list[Any] | None = None, **fields: Any) -> Request:
        submit = messages.Submit(
            id=0,
            key=self.world.random.randbytes(16),
            body=code(name),
            name=name,
            python=PYTHON,
            once=inputs is None,
            count=len(inputs or ()),
        )
        return self.ask(replace(submit, **fields), units(inputs or []), name)

    def session(self) -> Request:
        key = self.world.random.randbytes(16)
        return self.ask(messages.Submit(id=0, key=key, session=True, python=PYTHON))

    def map(self, session: int, name: str, inputs: list[Any]) -> SessionMap:
        key = self.world.random.randbytes(16)
        call = SessionMap(messages.Map(key, session, code(name), len(inputs)), units(inputs), name)
        self.maps[key] = call
        self._say_map(call)
        return call

    def fetch(self, job: int, wait: bool = True) -> Request:
        return self.ask(messages.Fetch(0, job, wait=wait))


# -- the world -------------------------------------------------------------------------------------


class World:
    """See the module."""

    #: turns in which what should come about must have
    PATIENCE = 20_000

    def __init__(
        self,
        seed: int = 0,
        store: Callable[[], Store] | None = None,
        heartbeat: float = 2.0,
        lease: float = 20.0,
    ) -> None:
        self.random = random.Random(seed)
        self.numbers = itertools.count(1)
        self.now = 100.0
        self.peers: list[Peer] = []
        self.runs: Counter[int] = Counter()
        self.deaths = 0
        self._times = (heartbeat, lease)
        kept = MemoryStore()
        self._open_store = store or (lambda: kept)
        #: how the broker dies next: "", "decided" (before its commit) or "committed" (before it says so)
        self.doom = ""
        self._spins = 0
        self.manager: JobManager
        self.start_broker()

    @property
    def dispatcher(self) -> Dispatcher:
        return self.manager.dispatcher

    @property
    def kernels(self) -> list[Kernel]:
        return [p for p in self.peers if isinstance(p, Kernel)]

    @property
    def clients(self) -> list[Client]:
        return [p for p in self.peers if isinstance(p, Client)]

    def kernel(self, slots: int = 1, **options: Any) -> Kernel:
        kernel = Kernel(self, f"kernel {next(self.numbers)}", slots, **options)
        self.peers.append(kernel)
        return kernel

    def client(self, user: str = "ann") -> Client:
        client = Client(self, f"client {next(self.numbers)}", user)
        self.peers.append(client)
        return client

    # -- the broker ----------------------------------------------------------------------------

    def start_broker(self) -> None:
        heartbeat, lease = self._times
        self.manager = JobManager(self._open_store(), heartbeat, lease, checked=True)
        self.manager.restore(self.now, WALL + self.now)
        self.dispatcher.check()
        self.broker_turn([Tick(WALL + self.now)])

    def restart_broker(self) -> None:
        """It dies: connections are cut, and what it had not committed is lost."""
        self.doom = ""
        if not isinstance(self.manager.store, MemoryStore):
            self.manager.close()
        for peer in self.peers:
            peer.wire.cut()
        self.start_broker()

    def broker_turn(self, events: list[Event | Tick]) -> None:
        turn = self.manager.decide(events, self.now)
        self._post(turn.sends)
        if self.doom == "decided":
            self._let_arrive()
            self.restart_broker()
            return
        self.manager.commit(turn)
        if self.doom == "committed":
            self.restart_broker()
            return
        self._post(turn.sends_after_commit)

    def _let_arrive(self) -> None:
        for peer in self.peers:
            while peer.turn() and peer.wire.down:
                pass

    def _post(self, sends: list[Send]) -> None:
        wires = {p.wire.peer: p.wire for p in self.peers}
        for send in sends:
            frames = codec.encode(send.message, send.payload)  # type: ignore[arg-type]
            if send.peer in wires:
                wires[send.peer].down.append(frames)

    # -- time ----------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Everybody does a little, in a random order; whether anything happened."""
        moved = False
        events: list[Event | Tick] = []
        for peer in self.random.sample(self.peers, len(self.peers)):
            for _ in range(self.random.randint(1, 8)):
                if peer.wire.up:
                    frames = peer.wire.up.popleft()
                    events.append(Event(peer.wire.peer, *codec.decode(frames)))
        deadline = self.dispatcher.next_deadline()
        if deadline is not None and deadline <= self.now:
            events.append(Tick(WALL + self.now))
            self._spins += 1
            assert self._spins < 50, f"a deadline at {deadline} does not move on"
        if events:
            moved = True
            self.broker_turn(events)
        for peer in list(self.peers):
            for _ in range(self.random.randint(1, 4)):
                moved |= peer.turn()
        for kernel in self.kernels:
            for process in list(kernel.processes.values()):
                if self.random.random() < 0.8:
                    moved |= process.step()
                elif process.stack:
                    moved = True
        return moved

    def move(self) -> None:
        """Time goes on to the next deadline of anybody."""
        times = [p.deadline() for p in self.peers]
        broker = self.dispatcher.next_deadline()
        target = min([*times, broker] if broker is not None else times, default=self.now + 1.0)
        if target > self.now:
            self._spins = 0
        self.now = max(self.now, target)

    def until(self, done: Callable[[], bool]) -> None:
        """Live on until *done*; AssertionError when that takes for ever."""
        for _ in range(self.PATIENCE):
            if done():
                return
            if self.turn():
                self.now += 1e-4
                self._spins = 0
            else:
                self.move()
        raise AssertionError(f"it never came to that: {self.story()}")

    def settle(self) -> None:
        """Until nobody has anything to do at this moment."""
        for _ in range(self.PATIENCE):
            if not self.turn():
                return
            self.now += 1e-4
            self._spins = 0
        raise AssertionError(f"no rest: {self.story()}")

    def story(self) -> str:
        jobs = [j for j in self.dispatcher.list.jobs.values() if not j.ended]
        lines = [f"{j.record} {j.ending!r} {self.dispatcher.explain(j.number)!r}" for j in jobs]
        lines += [repr(a) for a in self.dispatcher.attempts.values()]
        lines += [f"{k} {k.presence} {k.life.holds}" for k in self.kernels]
        lines += [f"{c} {c.presence} {[r.message for r in c.requests.values()]}" for c in self.clients]
        return "\n".join(lines)

    # -- accidents -----------------------------------------------------------------------------

    def cut(self, peer: Peer) -> None:
        """The connection breaks, and is made anew."""
        peer.wire.cut()

    def lose(self, peer: Peer) -> None:
        """The peer is gone without a word."""
        self.peers.remove(peer)

    def leave(self, peer: Peer) -> None:
        """The peer says goodbye."""
        peer.send(messages.Goodbye("it has left"))
        while peer.wire.up:
            event = Event(peer.wire.peer, *codec.decode(peer.wire.up.popleft()))
            self.broker_turn([event])
        if peer in self.peers:
            self.peers.remove(peer)

    # -- the end -------------------------------------------------------------------------------

    def result(self, job: int) -> list[Any]:
        """The stored results of a job, None where there is none; each unit is answered at most once."""
        entry = self.dispatcher.list.jobs[job]
        got: dict[int, Any] = {}
        for key, data in self.manager.store.scan("results", (job,)):
            for unit, value in enumerate(values(data), key[1]):  # type: ignore[arg-type]
                assert unit not in got, f"unit {unit} of job {job} was answered twice"
                got[unit] = value
        assert sum(count for _, count in entry.results) == len(got), (
            "results in memory and in the store differ"
        )
        return [got.get(u) for u in range(1 if entry.submit.once else entry.root.total if entry.root else 0)]

    def check_nothing_is_left(self) -> None:
        """All jobs have ended: whatever was held for them is free again."""
        d = self.dispatcher
        assert all(j.ended for j in d.list.jobs.values()), self.story()
        assert not d.attempts
        assert not d.maps
        assert not d.list.dependents
        assert not d.codes._users
        for job in d.list.jobs.values():
            assert [*job.waiters, *job.attempts, *job.resumable, *job.ready] == [], job.record
        for member in (*d.roster.kernels.values(), *d.roster.clients.values()):
            assert not member.fetches, member
        for kernel in d.roster.kernels.values():
            assert kernel.running | kernel.parked | kernel.jobs == set(), kernel
        for client in d.roster.clients.values():
            assert not client.open, client
        assert self.manager._spool.count("units") == 0
        assert self.manager._spool.count("blob") <= len(d.codes)
        for own in self.kernels:
            assert not own.life.holds, own
            assert len(own.processes) <= own.life.slots, own.processes
            assert not any(p.stack for p in own.processes.values())
        table = self.manager.table
        assert {n: j.record for n, j in d.list.jobs.items()} == dict(table.jobs.items())
        assert {k.number: k.record() for k in d.roster.kernels.values()} == dict(table.kernels.items())
