"""Guides behind a server: real models behind real HTTP score as they do here."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.helpers import tiny
from tests.helpers.echo_server import KEY, EchoServer, serving
from tests.helpers.llms import both_guides
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    EmulatedFineTuning,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    RemoteGuide,
)
from w2s_chains.errors import ConfigError, ServerError

TEMPLATE = "A film: {prompt}"
QUICK: dict[str, Any] = {"max_retries": 0, "timeout": 20}


def guides(start_token: bool) -> Any:
    """A pair in this process, whose raw prompts begin with a start token, or without one."""
    tokenizer = tiny.byte_tokenizer(bos=start_token)
    base = tiny.llama(320, seed=1)
    models = (tiny.noisy(base), base)
    return GuidePair(*(HuggingFaceGuide(m, tokenizer, template=TEMPLATE) for m in models))


@contextmanager
def served(pair: Any) -> Generator[tuple[EchoServer, EchoServer]]:
    """Its guides behind HTTP."""
    first, second = pair.tuned, pair.untuned
    with (
        serving(first.lm.model, first.tokenizer.hf_tokenizer) as tuned,
        serving(second.lm.model, second.tokenizer.hf_tokenizer) as untuned,
    ):
        yield tuned, untuned


@pytest.fixture(scope="module")
def local() -> GuidePair:
    return guides(start_token=False)


@pytest.fixture(scope="module")
def two_servers(local: GuidePair) -> Generator[tuple[EchoServer, EchoServer]]:
    with served(local) as both:
        yield both


@pytest.fixture
def servers(two_servers: tuple[EchoServer, EchoServer]) -> tuple[EchoServer, EchoServer]:
    for server in two_servers:
        server.fault = None
        server.bodies.clear()
        server.keys.clear()
    return two_servers


def connected(server: EchoServer, **options: Any) -> RemoteGuide:
    fields = {"base_url": server.url, "template": TEMPLATE, "end": "</s>", **QUICK}
    return RemoteGuide("tiny", **{**fields, **options})


def texts() -> list[Hypothesis]:
    """As text: token ids are not sent."""
    hypotheses: list[Hypothesis] = []
    for prompt in ("The movie", "電影 and the"):
        root = Hypothesis.root(prompt)
        child = root.extend(" was great", None)
        hypotheses += [
            child,
            root.extend("s are", None),
            child.extend(" and fun", None, finish_reason="eos"),
            child.extend(" 映画", None, finish_reason="length"),
            root.extend("", None, finish_reason="eos"),
        ]
    return hypotheses


@pytest.mark.parametrize("start_token", [False, True])
def test_a_served_pair_scores_as_a_local_one(start_token: bool) -> None:
    local = guides(start_token)
    with served(local) as servers:
        pair = GuidePair(*(connected(server) for server in servers))
        found, expected = (p.loglikelihoods(texts()) for p in (pair, local))
        assert found == [pytest.approx(values, abs=1e-4) for values in expected]
        assert max(abs(a - b) for a, b in expected) > 1e-2, "control: the guides differ"
        without = connected(servers[0], end=None).loglikelihood(texts())
    same = [a == pytest.approx(b[0]) for a, b in zip(without, found, strict=True)]
    assert same == [not h.ended for h in texts()], "control: without its token no end counts"


def test_one_guide_may_be_here_and_the_other_there(
    local: GuidePair, servers: tuple[EchoServer, EchoServer]
) -> None:
    pair = GuidePair(local.tuned, connected(servers[1]))
    expected = local.loglikelihoods(texts())
    assert pair.loglikelihoods(texts()) == [pytest.approx(values, abs=1e-4) for values in expected]


def test_a_server_is_probed_once(servers: tuple[EchoServer, EchoServer]) -> None:
    server, guide = servers[0], connected(servers[0])
    assert server.bodies == [], "nothing is asked before it is needed"
    guide.loglikelihood(texts()[:1])
    probes = len(server.bodies)
    guide.loglikelihood(texts()[:1])
    assert len(server.bodies) == probes + 2, "a prompt and an answer"
    usage = texts()[0].usage
    assert usage.guide_tokens == 0
    hypothesis = texts()[0]
    del server.bodies[:]
    guide.loglikelihood([hypothesis])
    sent = [server.tokenizer(body["prompt"])["input_ids"] for body in server.bodies]
    assert len(sent) == 2
    assert hypothesis.usage.guide_tokens == sum(map(len, sent)), "the server reads it all"
    assert hypothesis.usage.guide_flops_ratio(1.0) is None


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("no echo", "every prompt token|otherwise than|not what it says"),
        ("shifted", "otherwise than when it sampled it"),
        ("constant", "otherwise than when it sampled it"),
        ("no logprobs", "no log-probabilities"),
        ("refuses", "refuses to score a text"),
        ("breaks", "refuses to score a text: .*logprobs is not supported"),
    ],
)
def test_a_server_that_scores_wrong_is_refused(
    servers: tuple[EchoServer, EchoServer], fault: str, told: str
) -> None:
    servers[0].fault = fault
    guide = connected(servers[0])
    with pytest.raises(ConfigError, match=f"cannot be a guide: .*({told})"):
        guide.loglikelihood(texts())
    servers[0].fault = None
    assert len(guide.loglikelihood(texts())) == len(texts()), "control"


def test_an_end_that_is_no_token(servers: tuple[EchoServer, EchoServer]) -> None:
    with pytest.raises(ConfigError, match=r"end '<\|im_stop\|>' is not one token"):
        connected(servers[0], end="<|im_stop|>").loglikelihood(texts())


def test_a_server_that_is_down(servers: tuple[EchoServer, EchoServer]) -> None:
    servers[0].fault = "down"
    with pytest.raises(ServerError, match="503"):
        connected(servers[0]).loglikelihood(texts())
    with pytest.raises(ServerError, match="check that the server runs"):
        RemoteGuide("tiny", base_url="http://127.0.0.1:9/v1", **QUICK).loglikelihood(texts())


def test_a_search_with_served_guides(
    servers: tuple[EchoServer, EchoServer], local: GuidePair, proposer: HuggingFaceProposer
) -> None:
    """From YAML and back; the same answers as with the guides in this process, read as text."""
    guide = {
        name: {
            "base_url": server.url, "model": "tiny", "template": "A film: {prompt}", "end": "</s>",
        }
        for name, server in zip(("tuned", "untuned"), servers, strict=True)
    }  # fmt: skip
    values = yaml.safe_load(yaml.safe_dump({"proposer": {"model": "x"}, "guide": guide}))
    strategy = ChunkBeamSearch(width=2, successors=2, chunk_tokens=3)
    fields: dict[str, Any] = {"strategy": strategy, "max_tokens": 6, "seed": 0}
    llm = W2SLLM.from_config(values, proposer=proposer, **fields)
    own: Any = llm.scorer
    assert isinstance(own.pair.tuned, RemoteGuide)
    pair = GuidePair(*(_AsText(guide) for guide in both_guides(local)))  # pyright: ignore[reportArgumentType]
    expected = W2SLLM(proposer=proposer, scorer=LogRatioScorer(pair), **fields)
    prompts = ["The movie", "A plot"]
    assert llm.batch(prompts) == expected.batch(prompts)
    with pytest.raises(ConfigError, match="GuidePair of two local models"):
        llm.invoke("The movie", strategy=EmulatedFineTuning())


class _AsText:
    """A local guide that is told no token ids."""

    def __init__(self, guide: HuggingFaceGuide) -> None:
        self.guides = guide

    def loglikelihood(self, hypotheses: list[Hypothesis]) -> list[float]:
        return self.guides.loglikelihood(
            [
                Hypothesis.root(h.prompt).extend(
                    h.response, None, finish_reason=h.finish_reason or "length"
                )
                for h in hypotheses
            ]
        )


def test_from_yaml_and_back(tiny_folders: dict[str, Any]) -> None:
    tuned = {"base_url": "http://127.0.0.1:9/v1", "model": "a", "end": "</s>"}
    guide = {"tuned": tuned, "untuned": str(tiny_folders["untuned"])}
    values = {"proposer": {"model": str(tiny_folders["proposer"])}, "guide": guide}
    llm = W2SLLM.from_config(values)
    written = llm.to_config()
    assert written["guides"]["tuned"] == tuned
    again = W2SLLM.from_config(written)
    assert again._identifying_params == llm._identifying_params
    other = W2SLLM.from_config({**values, "guide": {**guide, "tuned": {**tuned, "model": "b"}}})
    assert other._identifying_params != llm._identifying_params, "control"


def test_the_key_is_nowhere_to_be_seen(
    servers: tuple[EchoServer, EchoServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    guide = connected(servers[0], api_key_env="MY_KEY")
    guide.loglikelihood(texts()[:1])
    assert set(servers[0].keys) == {f"Bearer {KEY}"}, "control: it was sent"
    refused = connected(servers[0], api_key=KEY, api_key_env="OTHER_KEY")
    servers[0].fault = "refuses"
    with pytest.raises(ConfigError) as caught:
        refused.loglikelihood(texts()[:1])
    chain: list[BaseException | None] = [caught.value]
    while (latest := chain[-1]) is not None:
        chain.append(latest.__cause__ or latest.__context__)
    seen = [repr(guide), repr(refused), repr(guide.spec), str(guide.spec.model_dump()), caplog.text]
    seen += [str(error) + repr(error) for error in chain]
    seen.append(str(pickle.dumps(guide.spec)))
    assert all(KEY not in text for text in seen)
    with pytest.raises(ValueError, match="api_key_env must be the name"):
        connected(servers[0], api_key_env=KEY)
