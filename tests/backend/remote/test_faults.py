"""A server that fails at a seeded rate: answers or clear errors, no storm, and no key anywhere."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence

import pytest

from tests.helpers.served import FAULTS, Server, Words, serve
from w2s_chains import BestOfN, Engine, Hypothesis, Job, SamplingParams
from w2s_chains.core.events import Finished
from w2s_chains.errors import ServerError
from w2s_chains.proposers import OpenAIProposer

PROMPTS = 200
N = 5
RETRIES = 2
KEY = "sk-this-is-a-secret"


class Longest:
    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [float(len(h.response)) for h in hypotheses]


def connect(server: Server, timeout: float = 20.0) -> OpenAIProposer:
    return OpenAIProposer(
        "m",
        base_url=server.url,
        api_key=KEY,
        timeout=timeout,
        max_retries=RETRIES,
        backoff=0.01,
        max_concurrency=64,
    )


def answers(proposer: OpenAIProposer) -> list[Finished | BaseException]:
    """What becomes of 1,000 proposals: best of five for each prompt."""
    jobs = [
        Job(
            root=Hypothesis.root(f"prompt {i}"),
            strategy=BestOfN(n=N),
            proposer=proposer,
            scorer=Longest(),  # pyright: ignore[reportArgumentType]
            sampling=SamplingParams(max_tokens=4),
        )
        for i in range(PROMPTS)
    ]
    running = Engine(max_live=PROMPTS).submit(jobs)
    return [one.future.exception(timeout=120) or one.future.result() for one in running]


@pytest.fixture(scope="module")
def clean() -> list[str]:
    with serve(Words()) as server:
        given = answers(connect(server))
    assert all(isinstance(one, Finished) for one in given)
    return [one.text for one in given if isinstance(one, Finished)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fifth_of_all_requests_fails(
    fault: str, clean: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    with serve(Words(), faults={fault: 0.0}) as server:
        proposer = connect(server, timeout=2.0 if fault == "hang" else 30.0)
        assert proposer.capabilities.n
        probed = len(server.bodies)
        server.faults = {fault: 0.2}
        given = answers(proposer)
        requests = len(server.bodies) - probed
        assert server.keys == {KEY}
    assert server.injected[fault] > PROMPTS / 10

    # Every prompt ends in an answer or one clear error, and errors are rare.
    failed = [one for one in given if not isinstance(one, Finished)]
    assert len(failed) < PROMPTS / 10
    assert all(isinstance(error, ServerError) for error in failed)
    assert all(f"after {RETRIES + 1} attempts" in str(error) for error in failed)

    # What is finished is what it would have been.
    pairs = [
        (one, text) for one, text in zip(given, clean, strict=True) if isinstance(one, Finished)
    ]
    if fault == "wrong_n":
        assert not failed, "what is missing is asked for again"
        assert all(one.proposed_tokens >= 4 * N for one, _ in pairs)
    else:
        assert [one.text for one, _ in pairs] == [text for _, text in pairs]

    # No storm.
    assert requests <= PROMPTS * (RETRIES + 1)
    if fault != "hang":  # on a busy machine a call without a fault may be late as well
        assert requests <= PROMPTS + server.injected[fault]

    # No key.
    said = caplog.text + "".join(
        f"{error!r} {''.join(traceback.format_exception(error))}" for error in failed
    )
    assert "HTTP" in said, "control: the loggers of the client were on"
    assert KEY not in said
    if fault in ("429", "500"):
        assert "key *** is out of luck" in said, "control: the server repeated it"


def test_a_dead_server_gets_few_requests() -> None:
    with serve(Words(), faults={"500": 1.0}) as server:
        given = answers(connect(server))
        assert all(isinstance(error, ServerError) for error in given)
        assert len(server.bodies) == RETRIES + 1, "all searches ask together what it can do"


def test_what_a_server_can_do_is_found_out_in_spite_of_faults() -> None:
    with serve(Words(), faults=dict.fromkeys(("429", "500", "truncated"), 0.07)) as server:
        can = connect(server).capabilities
        assert can.completions
        assert len(server.bodies) < 25


def test_faults_do_not_depend_on_order() -> None:
    """Control: which requests fail is a function of seed and request."""
    bodies = [{"prompt": f"p{i}"} for i in range(200)]
    first, second, other = (
        Server(model=Words(), faults={"500": 0.2}, seed=seed) for seed in (0, 0, 1)
    )
    found = [first.fault(body) for body in bodies]
    assert found == [second.fault(body) for body in reversed(bodies)][::-1]
    assert found != [other.fault(body) for body in bodies]
    assert 20 < found.count("500") < 60
