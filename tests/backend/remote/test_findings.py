"""What is found out about a server, by many at once."""

from __future__ import annotations

import asyncio

from w2s_chains.backend.remote.findings import Findings
from w2s_chains.errors import ServerError


async def test_those_that_wait_for_a_test_share_its_failure() -> None:
    """Or the last of them would wait for as many timeouts as there are callers."""
    tests = 0

    async def find() -> int:
        nonlocal tests
        tests += 1
        await asyncio.sleep(0)  # the others come to wait
        if tests == 1:
            raise ServerError("it hangs", 503, passing=True)
        return tests

    async def still(found: int) -> bool:
        return True

    found = Findings(find, still)
    errors = await asyncio.gather(*(found.get() for _ in range(8)), return_exceptions=True)
    told = [(str(e), e.status, e.passing) for e in errors if isinstance(e, ServerError)]
    assert told == [("it hangs", 503, True)] * 8
    assert tests == 1
    assert await found.get() == 2, "control: who comes later has it tested again"
