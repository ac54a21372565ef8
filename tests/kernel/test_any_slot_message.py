"""Whatever a slot process says, its kernel goes on: a message is taken, dropped, or refused as a breach of the protocol."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.errors import ProtocolError
from park.kernel.machine.state_machine import ATTEMPT_HANDLERS, SLOT_HANDLERS
from park.wire import messages
from tests.sim.functions import code, units
from tests.support.any_value import any_of
from tests.support.bench import B, Bench

KINDS = sorted([*SLOT_HANDLERS, *ATTEMPT_HANDLERS], key=lambda kind: kind.__name__)


@given(st.integers(0, 1 << 32))
def test_no_message_of_a_process_fails_the_machine(seed: int) -> None:
    chance = random.Random(seed)
    bench = Bench(2)
    bench.run(1)
    bench.run(2)
    for _ in range(8):
        kind = chance.choice(KINDS)
        fields = {f.name: any_of(chance, f.type) for f in msgspec.inspect.type_info(kind).fields}  # type: ignore[attr-defined]
        if "attempt" in fields and chance.random() < 0.8:
            fields["attempt"] = chance.choice([1, 2])
        payload = chance.choice([b"", b"x", units([1]), units([1, 2]), chance.randbytes(20)])
        process = chance.choice(sorted(bench.machine.state.processes))
        try:
            bench.machine.slot(process, kind(**fields), payload)
        except ProtocolError:
            return  # the kernel ends the process
        bench.machine.check()


@pytest.mark.parametrize("count", [0, 2, 10**12, 2**63 - 1])
def test_a_map_with_other_units_than_it_says_is_refused(count: int) -> None:
    bench = Bench()
    bench.run(1)
    with pytest.raises(ProtocolError, match="a map says that it has"):
        bench.machine.slot(1, messages.Map(B, 1, code("square"), count, attempt=1), units([7]))
