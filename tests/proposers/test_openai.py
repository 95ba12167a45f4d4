"""What a proposer asks an OpenAI-compatible server for, and how answers end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.openai_proposer import GREEDY, HOT, Longest, ask, connect, words
from tests.helpers.served import Tiny, Words, serve
from w2s_chains import W2SLLM, BestOfN, ChunkBeamSearch, Expand, Hypothesis, SamplingParams
from w2s_chains.errors import ServerError

# What is asked for.


def test_children_come_in_order_and_go_on_where_their_parents_stopped() -> None:
    with serve(Words()) as server:
        proposer = connect(server, template="<{prompt}>")
        [a, b] = ask(proposer, "x", successors=2, chunk_tokens=3)
        longer = ask(proposer, a, b, successors=2, chunk_tokens=3)
        assert [child.parent for child in longer] == [a, a, b, b]
        assert all(child.n_tokens == 6 and not child.finished for child in longer)
        assert len({child.response for child in longer}) == 4
        assert all(len(child.text.split()) == 3 for child in longer)
        prompts = [body["prompt"] for body in server.bodies[-2:]]
        assert sorted(prompts) == sorted("<x>" + h.response for h in (a, b))


def test_every_sampling_field_is_sent() -> None:
    """Servers have defaults of their own, such as top_k=40."""
    with serve(Words()) as server:
        proposer = connect(server)
        ask(proposer, "x", successors=3, chunk_tokens=5, sampling=HOT)
        body = server.bodies[-1]
        assert isinstance(body.pop("seed"), int)
        assert body == {
            "model": "m", "prompt": "x", "max_tokens": 5, "n": 3, "stream": False,
            "temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0,
        }  # fmt: skip
        sampling = SamplingParams(
            temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, repetition_penalty=1.2
        )
        ask(proposer, "x", chunk_tokens=5, sampling=sampling)
        body = server.bodies[-1]
        assert (body["temperature"], body["top_p"], body["top_k"]) == (0.5, 0.9, 7)
        assert body["min_p"] == 0.1
        assert body["repetition_penalty"] == body["repeat_penalty"] == 1.2


def test_an_answer_depends_on_its_request_alone() -> None:
    with serve(Words()) as server:
        proposer = connect(server)

        def texts(*prompts: str, seed: int = 1) -> list[str]:
            requests = [
                Expand(hypotheses=(Hypothesis.root(p),), successors=2, seed=seed, sampling=HOT)
                for p in prompts
            ]
            found: list[str] = []
            for answer in proposer.propose(requests):
                assert not isinstance(answer, Exception)
                found += [child.text for child in answer]
            return found

        together = texts("a", "b")
        assert together == texts("a") + texts("b")
        assert together != texts("a", "b", seed=2), "control"
        assert len(set(together)) == 4


def test_streams_of_siblings_differ_and_the_first_goes_on() -> None:
    with serve(Words()) as server:
        proposer = connect(server)
        first, *others = ask(proposer, "x", successors=3, chunk_tokens=2)
        assert first.stream == 0
        assert len({first.stream, *(h.stream for h in others)}) == 3
        seeds = []
        for h in (first, *others):
            ask(proposer, h, chunk_tokens=2)
            seeds.append(server.bodies[-1]["seed"])
        assert len(set(seeds)) == 3


@pytest.mark.parametrize("n", [True, False], ids=["n", "n ignored"])
def test_there_are_always_as_many_children_as_asked_for(n: bool) -> None:
    with serve(Words(), n=n) as server:
        proposer = connect(server)
        assert proposer.capabilities.n == n
        before = len(server.bodies)
        children = ask(proposer, "x", successors=4, chunk_tokens=6)
        assert len({child.text for child in children}) == 4
        assert len(server.bodies) - before == (1 if n else 4)


@pytest.mark.parametrize("n", [True, False], ids=["n", "n ignored"])
def test_further_children_are_others_and_cost_their_own_calls(n: bool) -> None:
    with serve(Words(), n=n) as server:
        proposer = connect(server)
        assert "first" in proposer.abilities
        some = ask(proposer, "x", successors=2, chunk_tokens=6)
        before = len(server.bodies)
        more = ask(proposer, "x", successors=2, chunk_tokens=6, first=2)
        assert len(server.bodies) - before == (1 if n else 2)
        assert len({child.text for child in some + more}) == 4
        again = ask(proposer, "x", successors=2, chunk_tokens=6, first=2)
        assert [child.text for child in again] == [child.text for child in more]
        if not n:
            whole = ask(proposer, "x", successors=4, chunk_tokens=6)
            assert [child.text for child in whole] == [child.text for child in some + more]


def test_greedy_siblings_are_one_call() -> None:
    with serve(Words()) as server:
        proposer = connect(server)
        children = ask(proposer, "x", successors=4, chunk_tokens=6, sampling=GREEDY)
        assert [child.text for child in children] == [words("x", 6)] * 4
        assert server.bodies[-1]["n"] == 1


def test_calls_under_way_are_capped() -> None:
    with serve(Words(), delay=0.02) as server:
        proposer = connect(server, max_concurrency=3)
        ask(proposer, *(f"p{i}" for i in range(12)), chunk_tokens=2)
        assert server.peak == 3


# How answers end.


def test_an_answer_ends_by_itself_or_by_length() -> None:
    with serve(Words(ends=True)) as server:
        proposer = connect(server)
        ends = set()
        for i in range(30):
            [h] = ask(proposer, f"p{i}", sampling=SamplingParams(max_tokens=8), seed=i)
            assert h.finish_reason == ("length" if h.n_tokens == 8 else "eos")
            assert len(h.text.split()) == h.n_tokens
            ends.add(h.finish_reason)
        assert ends == {"eos", "length"}


@pytest.mark.parametrize("chunk", [1, 3, None])
@pytest.mark.parametrize("stop", ["e s", "three four", "o", "zzz"])
def test_stop_strings_cut_as_if_there_were_no_chunks(chunk: int | None, stop: str) -> None:
    with serve(Words()) as server:
        proposer = connect(server)
        sampling = SamplingParams(max_tokens=80, temperature=0.0, stop=stop)  # pyright: ignore[reportArgumentType]
        h = Hypothesis.root("x")
        while not h.finished:
            [h] = ask(proposer, h, chunk_tokens=chunk, sampling=sampling)
        whole, found, _ = words("x", 80).partition(stop)
        assert h.response == whole
        assert h.finish_reason == ("stop" if found else "length")


def test_usage_is_what_the_server_counts() -> None:
    with serve(Words()) as server:
        llm = W2SLLM(
            proposer=connect(server), scorer=Longest(), strategy=BestOfN(n=3), max_tokens=5
        )
        [[one]] = llm.generate(["abcd"]).generations
        assert one.generation_info is not None
        assert one.generation_info["proposed_tokens"] == 15
        assert one.generation_info["read_tokens"] == 1 + 3 * 4
        assert one.generation_info["rounds"] == 1
        assert one.generation_info["guide_flops_ratio"] is None, "nobody knows the server's size"
        assert one.generation_info["prompt_tokens"] == 4
        assert one.generation_info["completion_tokens"] == 5


def test_an_answer_in_several_calls_costs_what_it_costs_in_one() -> None:
    with serve(Words()) as server:
        sampling = SamplingParams(max_tokens=80, stop=("zzz",))  # asks for 64 tokens at most
        children = ask(connect(server), "x", successors=2, sampling=sampling)
        assert len([body for body in server.bodies if body["prompt"].startswith("x ")]) == 2
        usage = children[0].usage
        assert (usage.proposed_tokens, usage.read_tokens) == (2 * 80, 1 + 2 * 79)


@pytest.mark.parametrize("n", [True, False], ids=["n", "n ignored"])
def test_the_prompt_counts_once(n: bool) -> None:
    """As in this process, however often it is sent."""
    with serve(Words(), n=n) as server:
        beam = ChunkBeamSearch(width=2, successors=3, chunk_tokens=2)
        llm = W2SLLM(proposer=connect(server), scorer=Longest(), strategy=beam, max_tokens=8)
        [[one]] = llm.generate(["abcd"]).generations
        info = one.generation_info or {}
        assert info["prompt_tokens"] == 4
        # Six children of the root, then three times three of two; two tokens each.
        assert info["read_tokens"] == (1 + 6) + 3 * (2 + 6)
        assert (info["rounds"], info["proposed_tokens"]) == (4, 4 * 12)
        sent = [body for body in server.bodies if body["prompt"].startswith("abcd")]
        assert len(sent) > 4, "control"


def test_token_ids_out_of_the_vocabulary(lm: Tiny, tiny_folders: dict[str, Path]) -> None:
    class Beyond(Tiny):
        def go_on(self, ids: Any, body: Any, index: int) -> Any:
            one = super().go_on(ids, body, index)
            far = [10**6 if self.far else i for i in one.token_ids or ()]
            return type(one)(
                text=one.text, count=one.count, token_ids=far, finish_reason=one.finish_reason
            )

        far = False

    model = Beyond(lm.model, lm.tokenizer)
    with serve(model, ids=True) as server:
        proposer = connect(server, tokenizer=str(tiny_folders["proposer"]))
        ask(proposer, "the film")
        model.far = True
        with pytest.raises(ServerError, match="token id 1000000, but its tokenizer has only"):
            ask(proposer, "the film", chunk_tokens=3)


@pytest.mark.parametrize("counts", [True, False], ids=["usage", "no usage"])
def test_a_server_without_usage_costs_what_its_answers_have(
    counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Words()) as server:
        answer = server.answer

        def silent(body: dict[str, Any], chat: bool) -> tuple[int, dict[str, Any]]:
            status, reply = answer(body, chat)
            return status, {k: v for k, v in reply.items() if counts or k != "usage"}

        monkeypatch.setattr(server, "answer", silent)
        children = ask(connect(server), "abcd", successors=3, chunk_tokens=5)
        usage = children[0].usage
        assert (usage.proposed_tokens, usage.read_tokens) == (3 * 5, 1 + 3 * 4)
