"""The process that runs a broker's allocators: it looks, decides, and does, and writes down first what it is about to do.

It is a client of the broker, so a batch system that answers slowly does not block the broker. The broker starts it, and it
ends with the broker. Allocations stay, and the next process of this kind finds them again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from park.batch import allocator, systems
from park.batch.allocator import AllocatorState, Findings, Look, Policy, SubmitAllocation
from park.batch.allocator_claims import claims
from park.batch.allocator_files import NO_DEFINITIONS, AllocatorFiles, AllocatorRecord
from park.batch.allocator_kernels import (
    access,
    clean,
    forget,
    kind_of,
    last_words,
    make_key,
    output_folder,
    script,
)
from park.batch.profiles import profile
from park.errors import BatchError, ParkError, StoreError
from park.model import KernelRecord, WaitingWork
from park.util.stdio import tell

if TYPE_CHECKING:
    from park.core.server import ServerProxy

#: Seconds between two looks, between two searches for allocations that no record knows, and to the next step of a wait.
ALLOCATOR_POLL_SECONDS, SWEEP_SECONDS, STEP_SECONDS = 10.0, 300.0, 0.3


class AllocatorLoop:
    """Runs the allocators of the broker that lives in *home*, and is connected as *service*.

    *connection*: the broker's connection file. The times *now* are seconds of `AllocatorRecord.clock`.
    """

    def __init__(self, home: Path, service: ServerProxy, connection: Path) -> None:
        self._home = home
        self._service = service
        self._connection = connection
        self.files = AllocatorFiles(home)
        try:
            self.record = self.files.record()
        except StoreError as error:
            tell(f"park alloc: {error}; allocations that are there are cancelled", "warning")
            self.record = AllocatorRecord()
        self.record.broker = allocator.broker_id(service.about().store)
        self._began = self.record.clock - time.monotonic()
        self._sweep_at = 0.0
        #: allocations of which a kernel had work since the last look
        self._busy: set[str] = set()
        service.table.subscribe(self._watch)

    def run(self, wait: Callable[[float], bool]) -> None:
        """Look again and again, until *wait*, which takes a number of seconds, returns true or no allocator is left."""
        told = ""
        while (seen := self.files.changed) != NO_DEFINITIONS:
            spacing = ALLOCATOR_POLL_SECONDS
            try:
                self.turn(self._began + time.monotonic(), time.time())
                spacing = min((p.spacing for p in self.files.definitions().values()), default=0.0)
                told = ""
            except StoreError as error:
                if str(error) != told:
                    told = str(error)
                    tell(f"park alloc: {told}; nothing is submitted until that is mended", "error")
            until = time.monotonic() + max(STEP_SECONDS, min(ALLOCATOR_POLL_SECONDS, spacing))
            while self.files.changed == seen and time.monotonic() < until:
                if wait(STEP_SECONDS):
                    return

    def _watch(self, _: object, record: object) -> None:
        if isinstance(record, KernelRecord) and (record.busy or record.drivers):
            self._busy.update(record.labels)

    # -- a turn ----------------------------------------------------------------------------------

    def turn(self, now: float, wall: float) -> None:
        """Look at everything once, and do what is due."""
        record = self.record
        record.clock, record.looked = now, wall
        definitions = self.files.definitions()
        # kernels first: work that one takes which comes a moment later must not be submitted for again
        kernels = Counter(label for kernel in self._service.table.kernels.values() for label in kernel.labels)
        backlogs = {name: self._backlog(policy) for name, policy in definitions.items()}
        listed = self._listed(definitions, backlogs, now)
        busy, self._busy = self._busy, set()
        for name, policy in definitions.items():
            state = record.states.setdefault(name, AllocatorState())
            try:
                jobs = listed.get(policy.system, [])
                if isinstance(jobs, str):
                    record.why[name] = f"{policy.system} cannot be asked: {jobs}"
                    continue
                if backlogs[name] is not None:  # else what is known of kernels is stale, too
                    words = partial(last_words, self._folder(name))
                    Look(policy, state, Findings.of(jobs, kernels, busy), now, words).compare()
                claimed = claims(name, definitions, record.states, backlogs, now)
                record.why[name] = self._act(policy, state, backlogs[name], now, claimed)
            except StoreError:  # an action that cannot be written down is not done
                raise
            except ParkError as error:
                record.why[name] = str(error)
            finally:
                self.files.log(name, wall, state.news)
                state.news.clear()
            clean(self._folder(name), [a.name for a in state.allocations])
        self._drop(definitions)
        self.files.write_record(record)

    def _backlog(self, policy: Policy) -> WaitingWork | None:
        """The work that waits for the kernels of an allocator; None: the broker does not answer."""
        try:
            return None if self._service.table.stale else self._service.backlog(**kind_of(policy))
        except ParkError:
            return None

    def _listed(
        self, definitions: dict[str, Policy], backlogs: dict[str, WaitingWork | None], now: float
    ) -> dict[str, list[systems.Allocation] | str]:
        """The jobs of this user by batch system, or the words of one that does not tell; asked only where that matters."""
        record, sweeps = self.record, now >= self._sweep_at
        if sweeps:
            self._sweep_at = now + SWEEP_SECONDS
        wanted = {
            policy.system
            for name, policy in definitions.items()
            if sweeps
            or (name in record.states and record.states[name].allocations)
            or ((backlog := backlogs[name]) is not None and backlog.slots)
        }
        found: dict[str, list[systems.Allocation] | str] = {}
        for system in wanted:
            try:
                jobs = list(systems.look(profile(system), systems.own_user()).values())
            except ParkError as error:
                found[system] = str(error)
            else:
                found[system] = jobs
                self._sweep(system, jobs, [n for n, p in definitions.items() if p.system == system])
        return found

    def _sweep(self, system: str, jobs: list[systems.Allocation], names: list[str]) -> None:
        """Cancel the allocations of this broker that no record knows."""
        record = self.record
        known = [a.name for state in record.states.values() for a in state.allocations]
        for orphan in allocator.orphans(record.broker, jobs, known):
            record.number = max(record.number, allocator.number_in(record.broker, orphan.name) or 0)
            text = f"{orphan.name}, job {orphan.id} of {system}, is in no record, and is cancelled"
            try:
                systems.cancel(profile(system), orphan.id)
            except BatchError as error:
                text = f"{orphan.name}, job {orphan.id} of {system}, is in no record: {error}"
            self.files.log(names[0], record.looked, [text])

    # -- what is done ----------------------------------------------------------------------------

    def _act(
        self,
        policy: Policy,
        state: AllocatorState,
        backlog: WaitingWork | None,
        now: float,
        claimed: dict[str, int],
    ) -> str:
        """Do what is decided. Returns why no more is done."""
        actions, why = allocator.decide(policy, state, backlog, now, claimed)
        for action in actions:
            if isinstance(action, SubmitAllocation):
                self._submit(policy, state, now)
            else:
                self._cancel(policy, state, action, now)
        return why

    def _submit(self, policy: Policy, state: AllocatorState, now: float) -> None:
        """Ask for one more allocation. Raises ParkError where that cannot even be tried."""
        record, folder, found = self.record, self._folder(policy.name), profile(policy.system)
        connection = read_connection(self._connection)
        way = access(self._connection, connection, policy, folder, found.is_local)
        if way is not None and way.key is not None:
            make_key(self._home, policy, way.key)
        name = allocator.name_of(record.broker, record.number + 1)
        text = script(found, policy, name, way)
        record.number += 1
        allocator.submitting(state, name, now)
        try:
            self.files.write_record(record, durable=True)
        except StoreError:
            state.allocations.pop()
            raise
        try:
            id = systems.submit(found, text, folder, name)
        except BatchError as error:
            allocator.refused(policy, state, name, str(error), error.unsure)
        except OSError as error:
            allocator.refused(policy, state, name, f"{folder} cannot be written: {error.strerror}")
        else:
            allocator.submitted(policy, state, name, id)
        self.files.write_record(record)

    def _cancel(
        self, policy: Policy, state: AllocatorState, action: allocator.CancelAllocation, now: float
    ) -> None:
        trouble = ""
        try:
            systems.cancel(profile(policy.system), action.id)
        except BatchError as error:
            trouble = str(error)
        allocator.cancelled(state, action.name, now, trouble)

    def _drop(self, definitions: dict[str, Policy]) -> None:
        """Forget the allocators that were removed and have nothing any more."""
        record = self.record
        done = [n for n, p in definitions.items() if p.removing and not record.states[n].allocations]
        if done:
            with self.files.change() as changed:
                for name in done:
                    changed.pop(name, None)
        for name in [*done, *(record.states.keys() - definitions.keys())]:
            record.states.pop(name, None)
            record.why.pop(name, None)
            forget(self._home, self._folder(name))
            self.files.drop_log(name)

    def _folder(self, name: str) -> Path:
        return output_folder(self.record.broker, name)


def read_connection(file: Path) -> dict[str, object]:
    """The fields of a broker's connection file. Raises BatchError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError) as error:
        raise BatchError(f"{file} cannot be read: {error}") from error
