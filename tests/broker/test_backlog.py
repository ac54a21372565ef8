"""The backlog: the work that counts for an allocator, and the words on the work that does not."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from park.broker.accounts.ledger import CreditPolicy, Terms
from park.model import WaitingWork
from park.wire import codec, messages
from tests.sim.desk import Desk, accepted, finished, of
from tests.sim.wire import PYTHON


def ask(desk: Desk, **kind: Any) -> WaitingWork:
    """The answer to a client's question, without its parts; of kernels with four slots, if nothing else is said."""
    return replace(whole(desk, **kind), parts={})


def whole(desk: Desk, **kind: Any) -> WaitingWork:
    desk.client("asker")
    out = desk.give(b"asker", messages.Backlog(7, **({"python": PYTHON, "slots": 4} | kind)))
    (answer,) = [send for send in out.sends if isinstance(send.message, messages.Records)]
    return WaitingWork.from_map(codec.unpack(answer.payload)[0])


def test_the_part_of_each_job_is_told() -> None:
    desk = Desk()
    client = desk.client()
    first, _, last = (accepted(desk.submit(client, inputs=[1, 2], cpus=cpus)) for cpus in (1, 5, 2))
    assert whole(desk).parts == {str(first): 2, str(last): 4}


def test_units_and_drivers_that_wait_count_in_slots() -> None:
    desk = Desk()
    client = desk.client()
    assert ask(desk) == WaitingWork()
    desk.submit(client, inputs=[1, 2, 3])
    desk.submit(client, inputs=None)
    desk.submit(client, inputs=[1, 2], cpus=3)
    assert ask(desk) == WaitingWork(3 + 1 + 2 * 3, 3)


def test_a_unit_with_half_of_the_gpus_takes_half_of_the_slots() -> None:
    desk = Desk()
    client = desk.client()
    desk.submit(client, inputs=[1, 2, 3], gpus=1)
    desk.submit(client, inputs=[1, 2], gpus=0.5, cpus=3)
    assert ask(desk).others == {"for a kernel that has a GPU": 2}
    assert ask(desk, gpus=2) == WaitingWork(3 * 2 + 2 * 3, 2)


def test_what_runs_or_may_not_run_now_does_not_count() -> None:
    desk = Desk()
    client = desk.client()
    first = accepted(desk.submit(client, inputs=[1, 2, 3]))
    desk.submit(client, inputs=[1], after=[first])
    paused = accepted(desk.submit(client, inputs=[1]))
    desk.give(client, messages.Change(99, paused, paused=True))
    assert ask(desk) == WaitingWork(3, 1)
    desk.kernel(slots=2)
    assert ask(desk) == WaitingWork(1, 1)


def test_it_is_said_why_jobs_do_not_count() -> None:
    desk = Desk()
    client = desk.client()
    desk.submit(client, inputs=[1], cpus=5)
    desk.submit(client, inputs=[1], labels=["gpu"])
    desk.submit(client, inputs=[1], python="3.99")
    desk.submit(client, inputs=[1], memory=10**10)
    assert ask(desk, memory=10**9) == WaitingWork(
        0,
        0,
        {
            "for a kernel that has 5 slots": 1,
            "for a kernel that has the label 'gpu'": 1,
            "for a kernel that runs Python 3.99": 1,
            "for a kernel that has 10 GB of memory": 1,
        },
    )
    assert ask(desk, labels=["gpu"], slots=5).slots == 5 + 1 + 1
    assert ask(desk, only=True, owner="bob").others == {"of others than bob": 4}
    assert ask(desk, only=True, owner="ann").jobs == 1
    assert ask(desk, priority=1).others == {"of a lower priority": 4}


def test_owners_without_credit_pay_for_no_allocation() -> None:
    desk = Desk(policy=CreditPolicy(Terms(), {"ann": Terms(0, 0)}))
    desk.submit(desk.client(), inputs=[1], priority=4)
    desk.submit(desk.client("c2", "bob"), inputs=[1], priority=4)
    assert ask(desk, priority=1) == WaitingWork(1, 1, {"of owners without credit": 1})
    assert ask(desk).slots == 2


def test_units_that_take_longer_than_an_allocation_do_not_count() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    (run,) = of(desk.submit(client, inputs=[1, 2, 3]), messages.Run)
    assert ask(desk, seconds=60.0).slots == 2
    desk.now += 100.0
    desk.give(kernel, *finished(run, None, seconds=100.0))
    assert ask(desk, seconds=200.0).slots == 1
    assert ask(desk, seconds=60.0) == WaitingWork(0, 0, {"with units that take longer than an allocation": 1})


def test_a_kernel_that_has_come_up_tells_what_the_next_ones_have() -> None:
    desk = Desk()
    desk.submit(desk.client(), inputs=[1] * 9, requires={"refl1d": ""}, cpus=2)
    assert ask(desk, like="alloc:a").slots == 18
    hello = messages.KernelHello(b"k" * 16, "kay", "node", 1, 4, PYTHON, labels=["alloc:a"])
    desk.give(b"k", hello)
    assert ask(desk, like="alloc:a").others == {"for a kernel that has the package refl1d": 1}
    desk.give(b"k", messages.Goodbye())
    assert ask(desk, like="alloc:a").slots == 0
    assert ask(desk, like="alloc:b").slots == 18
    desk.submit(b"c1", inputs=[1], environment="refl1d", python="3.99")
    assert ask(desk, like="alloc:b").slots == 18 + 1
    assert "for a kernel that has the environment refl1d" in ask(desk, like="alloc:a").others
