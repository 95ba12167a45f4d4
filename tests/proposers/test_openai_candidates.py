"""Candidates without replacement over HTTP: drawn here from a server's likeliest tokens."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from tests.helpers.likeliest import TellingTiny, TellingWords
from tests.helpers.openai_proposer import GREEDY, connect, distinct
from tests.helpers.served import Server, Tiny, serve
from w2s_chains import (
    W2SLLM,
    Expand,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    SamplingParams,
    TokenSearch,
)
from w2s_chains.backend.remote.replies import TopToken
from w2s_chains.backend.sampling.draws import Draw
from w2s_chains.backend.sampling.shaping import Shaper
from w2s_chains.errors import ConfigError, ServerError
from w2s_chains.proposers import OpenAIProposer
from w2s_chains.proposers.openai_candidates import DistinctContinuation, kept

Served = tuple[Server, OpenAIProposer]
SHAPES: list[dict[str, Any]] = [
    {"top_k": 20},
    {"top_k": 20, "temperature": 0.3},
    {"top_k": 30, "top_p": 0.8, "temperature": 1.7},
    {"min_p": 0.3},
    {"temperature": 0.0},
]


@pytest.fixture(scope="module")
def telling(lm: Tiny) -> TellingTiny:
    return TellingTiny(lm.model, lm.tokenizer)


@pytest.fixture(scope="module")
def by_ids(telling: TellingTiny, tiny_folders: dict[str, Path]) -> Iterator[Served]:
    with serve(telling, ids=True) as server:
        yield server, connect(server, tokenizer=str(tiny_folders["proposer"]), chat=False)


@pytest.fixture(scope="module")
def by_text() -> Iterator[Served]:
    with serve(TellingWords("</s>")) as server:
        yield server, connect(server)


# By token ids.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_are_those_of_the_same_model_in_process(
    telling: TellingTiny, by_ids: Served, shape: dict[str, Any]
) -> None:
    """Half characters, control tokens and the end of the turn are among them."""
    local = HuggingFaceProposer(telling.model, telling.tokenizer)
    sampling = SamplingParams(max_tokens=12, **shape)
    prompts = [f"the film was {i}" for i in range(6)]
    told: list[list[Any]] = []
    for proposer, seed in ((local, 3), (by_ids[1], 3), (local, 4)):
        roots = [Hypothesis.root(prompt) for prompt in prompts]
        first = distinct(proposer, *roots, sampling=sampling, seed=seed)
        going = [child for child in first if not child.finished][::3]
        second = distinct(proposer, *going, sampling=sampling, seed=seed, first=1)
        told.append(first + second)
    near, over, other = (
        [(h.token_ids, h.pending, h.text, h.finish_reason, h.stream, h.n_tokens) for h in found]
        for found in told
    )
    assert over == near
    assert (other == near) == (sampling.temperature == 0), "control: another seed"
    for here, there in zip(*told[:2], strict=True):
        assert there.logprobs == pytest.approx(here.logprobs, abs=1e-4)
        assert there.vocabulary == here.vocabulary
    if "top_k" in shape:
        assert any(h.pending for h in told[1]), "control"


def test_a_search_over_http_equals_the_same_search_here(
    telling: TellingTiny, by_ids: Served, pair: GuidePair
) -> None:
    server, proposer = by_ids
    strategy = TokenSearch(candidates=4, distinct=True, tau=0.5)
    options: dict[str, Any] = {"scorer": LogRatioScorer(pair), "strategy": strategy}
    options |= {"max_tokens": 10, "top_k": 20}
    prompts = ["the film was", "I went", "a plot"]
    assert proposer.capabilities.top_ids
    begun = len(server.bodies)
    far = W2SLLM(proposer=proposer, **options)
    near = W2SLLM(proposer=HuggingFaceProposer(telling.model, telling.tokenizer), **options)
    found, wanted = (llm.generate(prompts, seed=1).generations for llm in (far, near))
    assert len(server.bodies) - begun == 3 * 10, "a call for every token"
    assert {body["max_tokens"] for body in server.bodies[begun:]} == {1}
    for [one], [other] in zip(found, wanted, strict=True):
        info, expected = one.generation_info or {}, other.generation_info or {}
        assert one.text == other.text
        for name in ("read_tokens", "proposed_tokens", "prompt_tokens", "rounds"):
            assert info[name] == expected[name]
        assert (info["read_tokens"], info["proposed_tokens"]) == (10, 40)
    texts = [one.text for [one] in found]
    assert far.batch(prompts[::-1], seed=1)[::-1] == texts
    assert far.batch(prompts, seed=2) != texts, "control"


@pytest.mark.parametrize("name", ["token_id:999", "the"])
def test_a_token_that_the_tokenizer_lacks(
    telling: TellingTiny, by_ids: Served, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(top: dict[str, float]) -> dict[str, float]:
        best, *others = top
        return {name: top[best], **{other: top[other] for other in others}}

    assert distinct(by_ids[1], "x")
    monkeypatch.setattr(telling, "told", told)
    with pytest.raises(ServerError, match=f"told the token '{name}', but its tokenizer has"):
        distinct(by_ids[1], "x")


# By text.


def test_one_call_of_one_token_gives_all_candidates_of_a_parent(by_text: Served) -> None:
    server, proposer = by_text
    assert proposer.capabilities.top_texts
    begun = len(server.bodies)
    a, b = distinct(proposer, "x", successors=2)
    children = distinct(proposer, a, b, successors=13)
    bodies = server.bodies[begun:]
    assert [body["prompt"] for body in bodies[:1]] == ["x"]
    assert sorted(body["prompt"] for body in bodies[1:]) == sorted(f"x{h.text}" for h in (a, b))
    for body in bodies:
        assert (body["max_tokens"], body["n"], body["logprobs"]) == (1, 1, 13)
        assert (body["temperature"], body["top_p"], body["top_k"]) == (1.0, 1.0, 0)
    for parent, own in ((a, children[:13]), (b, children[13:])):
        chances = TellingWords("</s>").chances("x" + parent.response)
        assert {child.text for child in own} == {*TellingWords.vocabulary, ""}
        assert all(child.parent is parent for child in own)
        assert len({child.stream for child in own}) == 13
        for child in own:
            name = "</s>" if child.ended else child.text
            assert child.logprobs == pytest.approx((chances[name],))
            assert child.finish_reason == (None if child.text else "eos")
            assert child.n_tokens == (1 if child.ended else 2)
    usage = a.usage
    assert (usage.read_tokens, usage.proposed_tokens, usage.prompt_tokens) == (3, 28, 1)


def test_the_shape_of_the_distribution_is_applied_here() -> None:
    """A server of OpenAI's fields alone knows neither top_k nor min_p."""
    with serve(TellingWords(), strict=True) as server:
        proposer = connect(server)
        assert not proposer.capabilities.top_k
        ranked = sorted(found := TellingWords().chances("x"), key=lambda name: -found[name])
        cold = distinct(proposer, "x", sampling=GREEDY)
        assert [child.text for child in cold] == ranked[:6]
        for shape in (
            {"top_k": 2},
            {"min_p": math.exp(found[ranked[1]] - found[ranked[0]]) - 1e-9},
        ):
            sampling = SamplingParams.model_validate({"max_tokens": 12, **shape})
            children = [child.text for child in distinct(proposer, "x", sampling=sampling)]
            assert {*children} == {*ranked[:2]}
            assert children == children[:2] * 3, "the first ones come again"
        with pytest.raises(ConfigError, match="top_k"):
            distinct(proposer, "x", chunk_tokens=2, sampling=SamplingParams(top_k=2))


def test_a_sampled_token_is_no_candidate_for_that() -> None:
    """Servers add it to the likeliest ones, so that it comes more often than its chance."""
    with serve(TellingWords(), most=5) as server:
        proposer = connect(server)
        listed = 0
        for i in range(20):
            chances = TellingWords().chances(f"p{i}")
            children = distinct(proposer, f"p{i}", successors=5)
            likeliest = sorted(chances, key=lambda name: -chances[name])[:5]
            assert {child.text for child in children} == {*likeliest}
            sampled = TellingWords().go_on(f"p{i}", server.bodies[-1], 0).text
            listed += sampled not in likeliest
        assert listed > 3, "control"


def test_children_are_a_function_of_their_number_and_of_nothing_else(by_text: Served) -> None:
    _, proposer = by_text
    prompts = [f"p{i}" for i in range(8)]
    together = [child.text for child in distinct(proposer, *prompts)]
    shuffled = random.Random(0).sample(prompts, len(prompts))
    alone = {prompt: [c.text for c in distinct(proposer, prompt)] for prompt in shuffled}
    assert together == [text for prompt in prompts for text in alone[prompt]]
    some = distinct(proposer, "p0", successors=2)
    some += distinct(proposer, "p0", first=2, successors=4)
    assert [child.text for child in some] == alone["p0"]
    assert len(set(alone["p0"])) == 6
    others = distinct(proposer, *prompts, seed=1)
    assert [child.text for child in others] != together, "control"


def test_they_are_drawn_without_replacement(by_text: Served) -> None:
    """The pair of the first two has probability p(a) p(b) / (1 - p(a))."""
    times, proposer, root = 3000, by_text[1], Hypothesis.root("x")
    sampling = SamplingParams(top_k=4)
    p = {" a": 0.5, " b": 0.25, " c": 0.15, " d": 0.1}
    told = [TopToken(token=name, logprob=math.log(chance)) for name, chance in p.items()]
    found: Counter[tuple[str, str]] = Counter()
    for seed in range(times):
        ask_for = Expand(hypotheses=(root,), distinct=True, sampling=sampling, seed=seed)
        how = DistinctContinuation(proposer._model, proposer.capabilities, ask_for, False)
        first, second, *_ = how._drawn(root, told, False)
        found[first.text, second.text] += 1
    pairs = [(a, b) for a in p for b in p if a != b]
    assert {*found} <= {*pairs}
    counts = [found[pair] for pair in pairs]

    def fits(chances: list[float]) -> float:
        return chisquare(counts, [times * chance / sum(chances) for chance in chances]).pvalue

    assert fits([p[a] * p[b] / (1 - p[a]) for a, b in pairs]) > 1e-4
    assert fits([p[a] * p[b] for a, b in pairs]) < 1e-6, "control: independent draws that differ"


def test_longer_chunks_take_a_call_for_every_child() -> None:
    with serve(TellingWords()) as server:
        proposer = connect(server)
        assert proposer.capabilities.top_texts
        begun = len(server.bodies)
        children = distinct(proposer, "x", chunk_tokens=4, successors=5)
        assert len(server.bodies) - begun == 1 + 5
        assert len({child.response.split()[0] for child in children}) == 5
        assert {child.n_tokens for child in children} == {4}
        assert {len(child.response.split()) for child in children} == {4}
        assert {node.logprobs for child in children for node in child.path} == {None}
        usage = children[0].usage
        assert (usage.read_tokens, usage.proposed_tokens) == (1 + 5 * 3, 5 * 4)


def test_stop_strings_and_the_limit_end_them() -> None:
    with serve(TellingWords()) as server:
        sampling = SamplingParams(max_tokens=1, stop=(" one", "wo"))
        children = distinct(connect(server), "x", successors=12, sampling=sampling)
        told = {(child.text, child.finish_reason) for child in children}
        assert told >= {("", "stop"), (" t", "stop"), (" three", "length")}
        assert len(told) == 12


NOT_TEXT = (
    "\ufffd",
    "a\ufffd",
    "",
    "bytes:\\xe2\\x80",
    "<0xE2>",
    "<|im_start|>",
    "<s>",
    "token_id:7",
)


@pytest.mark.parametrize("name", NOT_TEXT)
def test_names_that_are_no_text_are_left_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TellingWords()
    with serve(model) as server:
        proposer = connect(server)
        before = distinct(proposer, "x", successors=5)
        monkeypatch.setattr(model, "told", lambda top: {**lowered(top), name: math.log(0.5)})
        children = distinct(proposer, "x", successors=5)
        assert [child.text for child in children] == [child.text for child in before]
        monkeypatch.setattr(model, "told", lambda top: {**lowered(top), " new": math.log(0.5)})
        children = distinct(proposer, "x", successors=5)
        assert " new" in {child.text for child in children}, "control"
        monkeypatch.setattr(model, "told", lambda top: {"\ufffd" * (i + 1): -9.0 for i in range(9)})
        with pytest.raises(ServerError, match="no likely token after '' that is a text of whole"):
            distinct(proposer, "x")


def lowered(top: dict[str, float]) -> dict[str, float]:
    return {name: value + math.log(0.5) for name, value in top.items()}


ENDS = {"</s>": True, "<|im_end|>": True, "<|eot_id|>": True, "<|my_end|>": False, "END": False}


@pytest.mark.parametrize("end", ENDS)
def test_an_end_that_is_not_known_is_one_clear_error(end: str) -> None:
    """It shows when the server ends its turn itself."""
    options: dict[str, Any] = {"successors": 6, "chunk_tokens": 1, "distinct": True}
    with serve(TellingWords(end)) as server:
        requests = [Expand(hypotheses=(Hypothesis.root(f"p{i}"),), **options) for i in range(60)]
        answers = connect(server).propose(requests)
    failed = [answer for answer in answers if isinstance(answer, ServerError)]
    ended = [answer for answer in answers if isinstance(answer, list) and answer[0].ended]
    assert (bool(ended), bool(failed)) == (ENDS[end], not ENDS[end])
    told = f"with the token '{end}', which is not known to end one; give its tokenizer"
    assert all(told in str(error) for error in failed)


class Unnamed(TellingWords):
    """As in llama-cpp-python, the end of a turn has no name, and nothing is told when it comes."""

    def told(self, top: dict[str, float]) -> dict[str, float]:
        return {name if name != self.end else "": value for name, value in top.items()}

    def go_on(self, ids: Any, body: Any, index: int) -> Any:
        one = super().go_on(ids, body, index)
        if one.finish_reason == "stop" and one.logprobs is not None:
            one.logprobs.update({name: own[:-1] for name, own in one.logprobs.items()})
        return one


def test_an_end_without_a_name_is_known_where_it_is_the_likeliest_token() -> None:
    model, found = Unnamed("END"), Counter[tuple[bool, bool]]()
    with serve(model) as server:
        proposer = connect(server)
        assert proposer.capabilities.top_texts
        for i in range(60):
            chances = model.chances(prompt := f"p{i}")
            begun = len(server.bodies)
            children = distinct(proposer, prompt, successors=13)
            calls = server.bodies[begun:]
            likeliest = max(chances, key=lambda name: chances[name]) == "END"
            assert likeliest == any(child.ended for child in children)
            assert likeliest == (calls[-1]["temperature"] == 0)
            sampled = [body for body in calls if body["temperature"] == 1]
            assert len({body["seed"] for body in sampled}) == len(sampled)
            assert len({child.text for child in children}) == 12 + likeliest
            for child in children:
                assert child.logprobs == (chances[child.text or "END"],)
            found[likeliest, len(sampled) > 1] += 1
    assert len(found) > 2, "control"


def test_a_server_that_always_ends_has_one_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Unnamed("END")
    with serve(model) as server:
        proposer = connect(server)
        assert len({child.text for child in distinct(proposer, "x")}) == 6
        monkeypatch.setattr(model, "names", ["END"])
        begun = len(server.bodies)
        children = distinct(proposer, "x")
        assert {(child.text, child.finish_reason) for child in children} == {("", "eos")}
        assert children[0].logprobs is None, "nobody knows it"
        assert len(server.bodies) - begun == 8


@pytest.mark.parametrize("chat", [True, False])
def test_the_tokenizer_tells_what_ends_a_turn(
    telling: TellingTiny,
    tiny_folders: dict[str, Path],
    chat: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = {"</s>", "<|im_end|>"} if chat else {"</s>"}
    with serve(telling) as server:
        proposer = connect(server, tokenizer=str(tiny_folders["proposer"]), chat=chat)
        assert proposer.tokenizer is not None
        known, others = proposer.tokenizer.control_texts
        assert known == ends
        assert others == {"<s>", "</s>", "<|im_start|>", "<|im_end|>"} - ends
        assert proposer.capabilities.top_texts
        added = dict.fromkeys([*known, *others, "<|other|>"], math.log(0.1))
        lower = {f"{i}": math.log(0.01) for i in range(20)}
        monkeypatch.setattr(telling, "told", lambda top: {**added, **lower})
        monkeypatch.setattr(DistinctContinuation, "_check_sample", lambda *args: None)
        children = distinct(proposer, "x", successors=4, sampling=GREEDY)
    assert children[0].ended
    assert [h.text for h in children[1:]] == ["<|other|>", "0", "1"], "unknown names are text"


def test_llama_cpp_tells_ids_and_bytes(lm: Tiny, tiny_folders: dict[str, Path]) -> None:
    """It cuts half characters off its texts, and gives no text to the end of a turn."""
    model = TellingTiny(lm.model, lm.tokenizer, "content")
    sampling = SamplingParams(max_tokens=12, temperature=3.0)
    with serve(model) as server:
        proposer = connect(server, tokenizer=str(tiny_folders["proposer"]), chat=False)
        can = proposer.capabilities
        assert (can.top_logprobs, can.top_texts, can.top_ids) == (64, True, False)
        ended = 0
        for i in range(9):
            children = distinct(proposer, f"p{i}", successors=40, sampling=sampling)
            ended += any(child.ended for child in children)
            texts = [child.text for child in children if not child.ended]
            assert all(text and "\ufffd" not in text for text in texts)
            assert {*texts} <= {lm.tokenizer.decode([token]) for token in range(320)}
        assert ended > 1


# Temperature and filters.


@pytest.mark.parametrize("seed", range(20))
def test_filters_keep_what_they_keep_in_process(seed: int) -> None:
    numbers = random.Random(seed)
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(seed)) * 2
    sampling = SamplingParams(
        temperature=numbers.choice((0.5, 1.0, 1.6)),
        top_p=numbers.choice((0.3, 0.7, 0.95, 1.0)),
        top_k=numbers.choice((None, 5, 30)),
        min_p=numbers.choice((0.0, 0.02, 0.2)),
    )
    draw = Draw(parents=(), steps=1, sampling=sampling, place=(), n_tokens=0)
    shaped = Shaper([draw], torch.device("cpu")).shaped(logits, [], None)[0]
    logprobs = sorted(logits[0].log_softmax(0).tolist(), reverse=True)
    scores = kept(logprobs, sampling)
    assert len(scores) == int(shaped.isfinite().sum())
    assert scores == pytest.approx(
        [value / sampling.temperature for value in logprobs[: len(scores)]]
    )


def test_top_p_counts_the_tokens_that_were_not_told() -> None:
    told = [math.log(0.4), math.log(0.2), math.log(0.1), math.log(0.1)]
    assert len(kept(told, SamplingParams(top_p=0.59))) == 2
    assert len(kept(told, SamplingParams(top_p=0.69))) == 3, "of the told ones alone, 2 are 0.75"
    assert len(kept(told, SamplingParams(top_p=0.69, top_k=4))) == 2, "nothing else counts"
    assert len(kept(told, SamplingParams(top_p=0.9))) == 4
    assert kept(told, SamplingParams(temperature=0.0)) == told
    assert len(kept(told, SamplingParams(temperature=1e-5, top_p=0.5))) == 1
    assert len(kept([math.log(0.1)] * 3, SamplingParams(temperature=1e-5, top_p=0.5))) == 3
