"""Maps and their units, as clients and drivers send them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from park.broker.accounts import budgets
from park.broker.effects import Effects, Event, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import Attempt, AttemptState, JobMap
from park.broker.entities.roster import Client
from park.broker.handlers import attempts, charging, job_lifecycle, recovery, rights, validate
from park.broker.state import State
from park.errors import Busy, LimitReached, ProtocolError
from park.wire import messages, pack

#: Bytes of units in the broker's memory for the sessions of one client. A single message may have more if no other unit
#: is there.
MAX_SPOOL_BYTES = 256 << 20
#: Seconds after which a client with more bytes may try again.
RETRY_SECONDS = 2.0


def root_map(state: State, job: BrokerJob, came: int) -> JobMap:
    """Make the job's own map, whose first units came in the turn *came*."""
    m = job.submit
    root = JobMap(m.key, job.number, job.owner, m.body, m.seed, 0, root=True, once=m.once, closed=m.closed)
    root.tally = state.job_list.tallies.of(job.owner)
    root.came = came
    job.root = root
    _add_map(state, job, root)
    return root


def _add_map(state: State, job: BrokerJob, map_: JobMap) -> None:
    state.maps[map_.key] = job.maps[map_.key] = map_
    map_.apart = map_.function in job.killers
    state.code_cache.use(map_.function)


def add_units(
    state: State, effects: Effects, map_: JobMap, start: int, count: int, payload: bytes | memoryview
) -> None:
    """A segment of units that follows the last one; it may be empty."""
    if start != map_.total or pack.count(payload) != count:
        raise ProtocolError(f"units {start} to {start + count} do not follow unit {map_.total}")
    if count:
        map_.came = effects.turn
        map_.add(start, count)
        if map_.known:
            map_.skip(map_.known)
        _count_spooled(state, map_, start, len(payload))
        write = Write("units", map_.key_of(start), payload)
        (effects.writes if map_.root else effects.spool).append(write)
        if map_.root:
            state.job_list.grow(state.jobs[map_.job], len(payload))
        state.jobs[map_.job].list_ready(map_)


def _count_spooled(state: State, map_: JobMap, segment: int, size: int) -> None:
    """Count *size* bytes of a session's map that are in memory now."""
    if map_.session:
        map_.sizes[segment] = size
        state.count_spooled(state.jobs[map_.job], size)


def _check_spool(state: State, client: Client, size: int) -> None:
    """Check that there is memory for more units of the client's sessions. Raises Busy."""
    held = sum(state.jobs[number].spooled for number in client.open)
    own = state.job_list.tallies.of(client.user).spooled
    full = own > budgets.MAX_ALL_UNIT_BYTES // 16 and state.spooled + size > budgets.MAX_ALL_UNIT_BYTES
    for kept, limit, whose in (
        (held, MAX_SPOOL_BYTES, "this client"),
        (own, budgets.MAX_OWNER_UNIT_BYTES, client.user),
        (state.spooled, budgets.MAX_ALL_UNIT_BYTES if full else sys.maxsize, "all owners"),
    ):
        if kept and kept + size > limit:
            raise Busy(
                f"busy: {kept:,} bytes of units of {whose} wait, and no more than {limit:,} may: retry after "
                f"{RETRY_SECONDS:.0f} s"
            )


def _check_open_maps(state: State, client: Client, function: bytes) -> None:
    """Check that the client may open one more map, of this function. Raises LimitReached."""
    sessions = [state.jobs[number] for number in client.open]
    count = sum(len(job.maps) for job in sessions)
    budgets.check(count, budgets.MAX_OPEN_MAPS, "open maps", "wait for their results, or close some")
    if state.code_cache.size(function) > budgets.SMALL_CODE_BYTES:
        clients = (c for c in state.roster.clients.values() if c.user == client.user)
        sessions = [state.jobs[number] for c in clients for number in c.open]
        functions = {map_.function for job in sessions for map_ in job.maps.values()} | {function}
        size = sum(state.code_cache.size(f) for f in functions if f in state.code_cache)
        limit = budgets.MAX_SESSION_CODE_BYTES
        budgets.check(size, limit, "bytes of code in open maps", "close some, or pass large data as inputs")
        limit = budgets.MAX_ALL_CODE_BYTES
        if state.code_cache.used_bytes() > limit:
            raise LimitReached(
                f"the broker holds {limit:,} bytes of code of open maps of all owners, and takes no more: try again later"
            )


def on_units(state: State, effects: Effects, event: Event, message: messages.Units) -> None:
    """A client sends more units of a job or of a session's map."""
    client = rights.client(state, event)
    if message.job:
        job = state.job(message.job)
        map_ = job.root
        if not job.client and job.owner == client.user:  # its broker was restarted
            job.client = client.incarnation
    else:
        map_ = state.maps.get(message.map)
        if map_ is None:
            return  # it was cancelled
        job = state.job(map_.job)
    if map_ is None or job.client != client.incarnation:
        raise ProtocolError("no map of this client takes more units")
    # repeated after a lost acknowledgement, or sent before the client knew that its job ends
    if not (job.ended or job.ending or job.stops_at_failure):
        if message.start >= map_.total:
            _take_units(state, effects, client, map_, message, event.payload)
        elif map_.session:
            _take_again(state, effects, job, map_, message, event.payload)
    if message.job and not job.ended:
        (client.open.discard if map_.closed else client.open.add)(job.number)
    if message.id:
        effects.answer(event.peer, messages.Done(message.id))


def _take_units(
    state: State,
    effects: Effects,
    client: Client,
    map_: JobMap,
    message: messages.Units,
    payload: bytes | memoryview,
) -> None:
    job = state.jobs[map_.job]
    if map_.closed:
        if message.count:
            raise ProtocolError("this map has all its units already")
        return
    if map_.root:
        charging.check_quota(state, job.owner, 0, message.count, len(payload))
        state.disk.demand(len(payload))
    elif message.start == map_.total:
        _check_spool(state, client, len(payload))
    add_units(state, effects, map_, message.start, message.count, payload)
    if message.closed:
        map_.closed = True
        if map_.root:
            job.total = map_.total
            state.job_list.counted(job)
            state.job_list.store(job, effects)
    job_lifecycle.refresh(state, effects, job)
    job_lifecycle.check_map(state, effects, map_)


def _take_again(
    state: State,
    effects: Effects,
    job: BrokerJob,
    map_: JobMap,
    message: messages.Map | messages.Units,
    payload: bytes | memoryview,
) -> None:
    """Take units of a session's map that come a second time, over a new connection."""
    if (
        message.start not in map_.segments
        and message.start + message.count <= map_.total
        and map_.base <= message.start
        and not map_.has_of(message.start, message.start + message.count)
    ):
        if pack.count(payload) != message.count:
            raise ProtocolError(f"there are not {message.count} units")
        waited = map_.waiting
        map_.restore(message.start, message.count)
        _count_spooled(state, map_, message.start, len(payload))
        job.done = max(0, job.done - (map_.waiting - waited))
        state.job_list.counted(job)
        effects.spool.append(Write("units", map_.key_of(message.start), payload))
        job.list_ready(map_)
    if message.closed and message.start + message.count == map_.total:
        map_.closed = True
    job_lifecycle.refresh(state, effects, job)
    job_lifecycle.check_map(state, effects, map_)


def on_map(state: State, effects: Effects, event: Event, message: messages.Map) -> None:
    """A driver or a session makes a map, or sends it again over a new connection."""
    validate.check_answered(message.answered)
    if event.peer in state.roster.kernels:
        _map_of_driver(state, effects, event, message)
    else:
        _map_of_session(state, effects, event, message)


def _map_of_driver(state: State, effects: Effects, event: Event, message: messages.Map) -> None:
    """The driver waits in the map, without a slot, until the map has ended."""
    attempt = state.attempts.get(message.attempt)
    if attempt is None or attempt.kernel.peer != event.peer:  # its lease ran out, or its job has ended
        effects.send(event.peer, messages.Abort(attempt=message.attempt))
        return
    if attempts.ends_if_void(effects, attempt):
        return
    job = state.job(attempt.map.job)
    if job.ending in ("abort", "fail"):
        return
    known = state.maps.get(message.map)
    if known is not None:
        if known.job == job.number and known.driver == attempt.number and known.peer != event.peer:
            known.peer = event.peer
            _again(state, effects, job, known, message, event.payload)
        elif known.job != job.number:  # a key that the driver did not make
            effects.send(event.peer, messages.Abort(attempt=message.attempt))
        return  # else nothing was lost: the driver has only asked again
    if not _has_code(state, effects, event, message):
        return
    for key in list(attempt.maps):  # its driver has gone on since, and makes another one
        job_lifecycle.drop_map(state, effects, state.maps[key])
    map_ = _new_map(state, effects, job, event, message, attempt)
    attempt.maps.add(map_.key)
    job.callers.add(attempt.map.function)
    attempts.settle_twin(state, effects, attempt)  # an attempt that makes maps runs once at a time
    attempts.give_up_slots(state, effects, job, attempt, AttemptState.IN_MAP)
    job_lifecycle.refresh(state, effects, job)
    job_lifecycle.check_map(state, effects, map_)


def _map_of_session(state: State, effects: Effects, event: Event, message: messages.Map) -> None:
    """A client makes a map in its session."""
    client, job = rights.client(state, event), state.job(message.job)
    if not job.session or job.client != client.incarnation:
        raise ProtocolError(f"job {message.job} is no session of this client")
    if job.ended or job.ending:
        text = f"session {job.number} has ended" + (f": {job.facts.reason}" if job.facts.reason else "")
        effects.send(event.peer, messages.MapFailed(message.map, "JobAborted", text, job.number))
        return
    known = state.maps.get(message.map)
    if known is not None and known.session and known.job != job.number:
        other = state.job(known.job)
        if other.client != job.client or not other.ending:
            raise ProtocolError("another map has this key")
        # the client has lost the session of this map, and opened it anew
        job_lifecycle.drop_map(state, effects, known)
    elif known is not None:
        if known.job != job.number or known.driver:
            raise ProtocolError("another map has this key")
        if known.peer != event.peer:
            known.peer = event.peer
            _again(state, effects, job, known, message, event.payload)
        elif known.session and message.start == known.total:  # these units were refused as too many
            units = messages.Units(message.start, message.count, message.closed)
            _take_units(state, effects, client, known, units, event.payload)
        return  # else nothing was lost: the client has only asked again
    if not _has_code(state, effects, event, message):
        return
    charging.check_quota(state, job.owner, 0, message.count, 0)
    _check_open_maps(state, client, message.function)
    _check_spool(state, client, len(event.payload))
    map_ = _new_map(state, effects, job, event, message, None)
    if map_.waiting == 1:
        state.touched.single_units.append((job, map_))
    else:
        job_lifecycle.refresh(state, effects, job)
    job_lifecycle.check_map(state, effects, map_)


def _has_code(state: State, effects: Effects, event: Event, message: messages.Map) -> bool:
    """Whether the broker has the function of the map. If not, it asks for the function, and the sender repeats the map."""
    if len(message.map) != 16:
        raise ProtocolError("a map key has 16 bytes")
    if message.function not in state.code_cache:
        effects.send(event.peer, messages.NeedBlob(message.function))
        return False
    return True


def _new_map(
    state: State,
    effects: Effects,
    job: BrokerJob,
    event: Event,
    message: messages.Map,
    driver: Attempt | None,
) -> JobMap:
    """Make the map with its first units; *driver* None: for a session. Kernels go on with chunks of it that they hold."""
    state.next_map += 1
    map_ = JobMap(
        message.map,
        job.number,
        job.owner,
        message.function,
        message.seed,
        state.next_map,
        depth=driver.map.depth + 1 if driver is not None else 0,
        driver=driver.number if driver is not None else 0,
        closed=message.closed,
        peer=event.peer,
        base=message.start,
        total=message.start,
        known=message.answered,
        calls=message.calls,
        tally=state.job_list.tallies.of(job.owner),
    )
    add_units(state, effects, map_, message.start, message.count, event.payload)
    _add_map(state, job, map_)
    if driver is None and message.epoch not in (0, state.epoch):
        recovery.recover(state, job)
    if state.recovery.orphans:
        recovery.adopt(state, effects, map_)
    return map_


def _again(
    state: State,
    effects: Effects,
    job: BrokerJob,
    map_: JobMap,
    message: messages.Map,
    payload: bytes | memoryview,
) -> None:
    """The maker of the map repeats it over a new connection, because answers may have been lost on the old one."""
    if map_.cancelled:
        return
    map_.known = [0, message.start, *message.answered]
    units = map_.again(state.attempts[n] for n in map_.running)
    waiting = map_.waiting
    map_.skip(map_.known)
    units -= waiting - map_.waiting
    job.list_ready(map_)
    if job.session:
        job.done = max(0, job.done - units)
        state.job_list.counted(job)
    if map_.session and message.start < map_.total:
        _take_again(state, effects, job, map_, message, payload)
    elif map_.session:
        client = state.roster.clients[map_.peer]
        _take_units(
            state,
            effects,
            client,
            map_,
            messages.Units(message.start, message.count, message.closed),
            payload,
        )
    else:
        job_lifecycle.refresh(state, effects, job)
        job_lifecycle.check_map(state, effects, map_)


def on_cancel(state: State, effects: Effects, event: Event, message: messages.Cancel) -> None:
    """A client cancels a map of its session, or with *spare* those of its units that do not run yet."""
    map_ = state.maps.get(message.map)
    client = rights.client(state, event)
    if map_ is None or not map_.session or state.job(map_.job).client != client.incarnation:
        map_ = None
    if message.spare:
        units = _spare(state, effects, map_, message.units) if map_ is not None else []
        effects.answer(event.peer, messages.Dropped(message.id, message.map, units))
        return
    if map_ is not None:
        job_lifecycle.drop_map(state, effects, map_)
        job_lifecycle.refresh(state, effects, state.job(map_.job))
    if message.id:
        effects.answer(event.peer, messages.Done(message.id))


def _spare(state: State, effects: Effects, map_: JobMap, wanted: Sequence[int]) -> list[int]:
    """Drop waiting units: those in the ranges *wanted*, or all, and close the map. Returns the ranges that were
    dropped.
    """
    if wanted:
        units = map_.withdraw(wanted)
    else:
        units = [edge for span in map_.pending for edge in (span.start, span.stop)]
        map_.stop()
    job_lifecycle.refresh(state, effects, state.job(map_.job))
    job_lifecycle.check_map(state, effects, map_)
    return units
