"""Requests of clients about jobs: submit, change, end, delete and fetch them; and about credits."""

from __future__ import annotations

from park.broker.accounts import budgets
from park.broker.accounts.quotas import JOB_RECORD_BYTES
from park.broker.effects import Effects, Event, Ref, Write
from park.broker.entities.code_cache import check_code, digest_of
from park.broker.entities.jobs import BrokerJob, Waiter
from park.broker.entities.roster import Client, Member
from park.broker.handlers import charging, fetches, job_lifecycle, maps, notify, retention, rights, validate
from park.broker.state import MAX_REASON_CHARS, State
from park.errors import InvalidRequest, ProtocolError, Refused
from park.model import JobRecord, JobState
from park.wire import codec, messages
from park.wire.messages import Submit


def on_blob(state: State, effects: Effects, event: Event, message: messages.Blob) -> None:
    """A peer brings code."""
    if message.hash not in state.code_cache:
        check_code(message.hash, event.payload)
        effects.spool.append(Write("blob", (message.hash,), event.payload))
        job_lifecycle.drop_code(effects, state.code_cache.add(message.hash, len(event.payload)))
    elif digest_of(event.payload) and not state.code_cache.is_kept(message.hash):
        # it is on disk now, for a request that will be stored
        check_code(message.hash, event.payload)
        effects.spool.append(Write("blob", (message.hash,), event.payload))
    kernel = state.roster.kernels.get(event.peer)
    if kernel is not None:
        kernel.known.add(message.hash)


def on_submit(state: State, effects: Effects, event: Event, message: Submit) -> None:
    """A client submits a job or opens a session."""
    client = rights.client(state, event)
    known = state.job_list.by_key.get(message.key)
    if known is not None:
        job = state.jobs[known]
        rights.check_sender(state, event, known, job.owner)
        received = job.root.total if job.root is not None else 0
        effects.answer(event.peer, messages.Accepted(message.id, known, existed=True, received=received))
        return
    validate.check_submit(message, event.payload)
    notify.check_channel(state, message.notify)
    if message.key in state.maps:
        raise ProtocolError("another map has this key")
    for other in message.after:
        state.job(other)
    _check_shared_kernels(state, event, message)
    if message.session:
        _open_session(state, effects, event, message, client)
    elif message.body in state.code_cache:
        _store_job(state, effects, event, message, client)
    else:
        effects.send(event.peer, messages.NeedBlob(message.body))  # and then the request comes again


def _check_shared_kernels(state: State, event: Event, message: Submit) -> None:
    """Raises InvalidRequest or Refused unless the private job whose kernels the request shares is there for it."""
    if message.private and message.session:
        raise InvalidRequest("a session has no allocation of its own: name a private job with private=NUMBER")
    if message.private or not message.shares:
        return
    job = state.active_job(message.shares)
    rights.check_sender(state, event, job.number, job.owner)
    if job.needs.job != job.number or job.ending:
        how = "is ending" if job.ending else "was not submitted with private=True"
        raise InvalidRequest(
            f"private={job.number}: job {job.number} {how}, so there are no kernels of its own to share"
        )


def _open_session(state: State, effects: Effects, event: Event, message: Submit, client: Client) -> None:
    """A job that is not stored: it lives as long as its client."""
    charging.check_quota(state, client.user, 1, message.count + message.once, 0)
    job = _new_job(state, effects, message, client, code=0)
    effects.answer(event.peer, messages.Accepted(message.id, job.number, received=message.count))
    job.client_slow = client.slow
    client.open.add(job.number)
    state.job_list.change(job, effects, state=JobState.RUNNING, started=effects.wall)
    job_lifecycle.refresh(state, effects, job)


def _store_job(state: State, effects: Effects, event: Event, message: Submit, client: Client) -> None:
    """A job with its request, its code and its first inputs. Raises LimitReached, or Refused on a full disk."""
    request = codec.pack(codec.fields(message))
    code = state.code_cache.size(message.body)
    size = JOB_RECORD_BYTES + len(request) + code
    charging.check_quota(state, client.user, 1, message.count + message.once, size + len(event.payload))
    state.disk.demand(size + len(event.payload))
    job = _new_job(state, effects, message, client, code)
    effects.answer(event.peer, messages.Accepted(message.id, job.number, received=message.count))
    state.job_list.grow(job, size)
    effects.writes.append(Write("submit", (job.number,), request))
    if state.code_cache.keep(message.body, code):
        effects.writes.append(Write("blob", (message.body,), Ref("blob", (message.body,))))
    root = maps.root_map(state, job, effects.turn)
    if message.once:
        root.add(0, 1)
        job.list_ready(root)
    else:
        maps.add_units(state, effects, root, 0, message.count, event.payload)
        if not message.closed:
            client.open.add(job.number)
    job_lifecycle.release(state, effects, job)


def _new_job(state: State, effects: Effects, message: Submit, client: Client, code: int) -> BrokerJob:
    record = JobRecord(
        job=state.job_list.new_number(effects),
        owner=client.user,
        name=message.name,
        kind="session" if message.session else message.kind,
        tags=tuple(message.tags),
        priority=message.priority,
        state=JobState.QUEUED if message.session else JobState.WAITING,
        total=message.count if message.closed and not message.once and not message.session else None,
        after=tuple(message.after),
        when=message.when,
        submitted=effects.wall,
        python=message.python,
        epoch=state.epoch,
        argv=tuple(message.argv),
        doubled=0 if message.pure else None,
    )
    job = BrokerJob(record, message, client.incarnation, code=code)
    state.job_list.add(job, effects)
    join_clock(state, effects, job, effects.now)
    return job


def join_clock(state: State, effects: Effects, job: BrokerJob, born: float) -> None:
    """Add the job to the service clock; it was submitted at *born*."""
    state.clock.add(job.number, job.owner, charging.weight(state, effects, job), born, job.seconds)
    job.work_classes = state.free_slots.need(job.needs)
    job.needs = job.work_classes[0].needs
    effects.deltas += state.ledger.deltas([job.owner])


def on_stop(state: State, effects: Effects, event: Event, message: messages.Stop) -> None:
    """A client asks a job to stop. Units that run may finish."""
    job = state.active_job(message.job)
    rights.check_sender(state, event, job.number, job.owner)
    job_lifecycle.begin_end(state, effects, job, "stop", "stopped by its owner")
    effects.answer(event.peer, messages.Done(message.id))


def on_abort(state: State, effects: Effects, event: Event, message: messages.Abort) -> None:
    """A client aborts a job."""
    job = state.active_job(message.job)
    rights.check_sender(state, event, job.number, job.owner)
    job_lifecycle.begin_end(state, effects, job, "abort", "aborted by its owner")
    effects.answer(event.peer, messages.Done(message.id))


def on_delete(state: State, effects: Effects, event: Event, message: messages.Delete) -> None:
    """A client deletes a job that has ended."""
    job = state.job(message.job)
    rights.check_sender(state, event, job.number, job.owner)
    retention.check_deletable(state, job)
    retention.remove(state, effects, job)
    effects.answer(event.peer, messages.Done(message.id))


def on_change(state: State, effects: Effects, event: Event, message: messages.Change) -> None:
    """A client gives a job other tags or another priority, pauses it, or lets it go on."""
    job = state.active_job(message.job)
    rights.check_sender(state, event, job.number, job.owner)
    validate.check_change(message)
    if message.tags is not None:
        state.job_list.change(job, effects, tags=tuple(message.tags))
    if message.priority is not None:
        state.job_list.change(job, effects, priority=message.priority)
        state.clock.reweigh(job.number, charging.weight(state, effects, job))
    if message.allocation is not None:
        if job.needs.job != job.number:
            raise InvalidRequest(f"job {job.number} is not private: it has no allocation of its own")
        state.job_list.change(job, effects, allocation=message.allocation)
    if message.paused and job.state is not JobState.PAUSED:
        job_lifecycle.pause(state, effects, job)
    elif message.paused is False and job.state is JobState.PAUSED:
        job_lifecycle.unpause(state, effects, job)
    effects.answer(event.peer, messages.Done(message.id))


def on_close(state: State, effects: Effects, event: Event, message: messages.Close) -> None:
    """A client closes its session."""
    job = state.active_job(message.job)
    if not job.session or job.client != rights.client(state, event).incarnation:
        raise ProtocolError(f"job {message.job} is no session of this client")
    job_lifecycle.begin_end(
        state, effects, job, "abort" if message.reason else "stop", message.reason[:MAX_REASON_CHARS]
    )
    effects.answer(event.peer, messages.Done(message.id))


def on_fetch(state: State, effects: Effects, event: Event, message: messages.Fetch) -> None:
    """A peer asks for the results of a job, at once or when it has ended."""
    job = state.job(message.job)
    rights.check_sender(state, event, job.number, job.owner)
    member = state.roster.member(event.peer)
    assert member is not None
    waiter = Waiter(member, message.id, message.attempt, message.request, message.results)
    if not message.wait or job.ended:
        _check_fetches(member)
        fetches.answer(state, effects, job, waiter)
    elif (message.attempt, message.id) not in member.fetches:  # else it is asked again, over a new connection
        _check_fetches(member)
        member.fetches[message.attempt, message.id] = job.number
        job.waiters.append(waiter)


def _check_fetches(member: Member) -> None:
    """Raises LimitReached if the member waits for as many jobs as it may."""
    limit = budgets.MAX_WAITING_FETCHES
    budgets.check(
        len(member.fetches) + member.long_answers, limit, "fetches that wait", "wait for fewer jobs at once"
    )


def on_forget(state: State, effects: Effects, event: Event, message: messages.Forget) -> None:
    """A client withdraws a Fetch that waits."""
    member = rights.client(state, event)
    number = fetches.forget(state, member, 0, message.id)
    job = state.jobs.get(number or 0)
    if job is not None:
        # a fetch with the number of an attempt is another one, whatever its id
        job.waiters = [w for w in job.waiters if w.key != (id(member), 0, message.id)]


def on_credits(state: State, effects: Effects, event: Event, message: messages.Credits) -> None:
    """A client asks for the accounts of owners."""
    effects.send(
        event.peer, messages.Records(message.id), codec.pack(charging.accounts(state, message.owner))
    )


def on_grant(state: State, effects: Effects, event: Event, message: messages.Grant) -> None:
    """The admin grants credits."""
    if not rights.client(state, event).admin:
        raise Refused(
            "only the broker's own user grants credits, over ipc: run `park credits grant` on its machine"
        )
    state.ledger.grant(message.owner, message.credits, effects.now)
    effects.deltas += state.ledger.deltas({message.owner} & state.job_list.owners().keys())
    effects.answer(event.peer, messages.Done(message.id))
