from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.served import Server, Tiny, Words, serve
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChatW2S,
    ChunkBeamSearch,
    Engine,
    Expand,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    LogRatioScorer,
    Sampling,
    SamplingParams,
    load,
)
from w2s_chains.backend.text.template import PromptTemplate
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.config.describe import describe
from w2s_chains.core.prompts import Message, Prompt
from w2s_chains.errors import CancelledError, ConfigError, PromptError, ServerError
from w2s_chains.proposers import OpenAIConfig, OpenAIProposer

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
HOT = SamplingParams(max_tokens=12)


class Longest:
    """A scorer that needs no guides."""

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [float(len(h.response)) for h in hypotheses]


def connect(server: Server, **options: Any) -> OpenAIProposer:
    options = {"backoff": 0.01, "timeout": 5.0, **options}
    return OpenAIProposer("m", base_url=server.url, **options)


def ask(proposer: OpenAIProposer, *hypotheses: Hypothesis | str, **fields: Any) -> list[Hypothesis]:
    nodes = tuple(Hypothesis.root(h) if isinstance(h, str) else h for h in hypotheses)
    [answer] = proposer.propose([Expand(hypotheses=nodes, **{"sampling": HOT, **fields})])
    if isinstance(answer, Exception):
        raise answer
    return answer


def greedy_in_chunks(proposer: OpenAIProposer, prompt: str, chunk: int, tokens: int) -> Hypothesis:
    h = Hypothesis.root(prompt)
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0)
    while not h.finished:
        [h] = ask(proposer, h, chunk_tokens=chunk, sampling=sampling)
    return h


def words(prompt: str, tokens: int = 12) -> str:
    body = {"max_tokens": tokens, "temperature": 0.0, "seed": 0}
    return Words().go_on(prompt, body, 0).text


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
        sampling = SamplingParams(temperature=0.5, top_p=0.9, top_k=7, repetition_penalty=1.2)
        ask(proposer, "x", chunk_tokens=5, sampling=sampling)
        body = server.bodies[-1]
        assert (body["temperature"], body["top_p"], body["top_k"]) == (0.5, 0.9, 7)
        assert body["repetition_penalty"] == body["repeat_penalty"] == 1.2


def test_an_answer_depends_on_its_request_alone() -> None:
    with serve(Words()) as server:
        proposer = connect(server)

        def texts(*prompts: str, seed: int = 1) -> list[str]:
            requests = [
                Expand(hypotheses=(Hypothesis.root(p),), successors=2, seed=seed, sampling=HOT)
                for p in prompts
            ]
            return [child.text for answer in proposer.propose(requests) for child in answer]

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
        sampling = SamplingParams(max_tokens=80, temperature=0.0, stop=stop)
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
        assert one.generation_info["prompt_tokens"] == 4
        assert one.generation_info["completion_tokens"] == 5


# By token ids.


@pytest.fixture(scope="module")
def lm() -> Tiny:
    return Tiny(tiny.llama(320), tiny.byte_tokenizer())


def test_token_ids_are_sent_where_the_server_returns_them(
    lm: Tiny, tiny_folders: dict[str, Path]
) -> None:
    """Bytes of unfinished characters are all over the answers of this model: no text has them."""
    prompt, tokenizer = "the film was", lm.tokenizer
    body = {"max_tokens": 20, "temperature": 0, "seed": 0}
    whole = lm.go_on(prompt, body, 0)
    with serve(lm, ids=True) as server:
        proposer = connect(server, tokenizer=str(tiny_folders["proposer"]))
        assert proposer.capabilities.token_ids
        h = greedy_in_chunks(proposer, prompt, 3, 20)
        assert list(h.response_ids or ()) == [i for i in whole.token_ids or () if i != 1]
        assert h.response == whole.text.rstrip("\ufffd")
        assert h.vocabulary == Tokenizer(tokenizer, PromptTemplate(), []).vocabulary
        read = tokenizer(prompt)["input_ids"]
        assert server.bodies[-1]["prompt"][: len(read)] == read


def test_token_ids_are_sent_without_a_tokenizer_too(lm: Tiny) -> None:
    with serve(lm, ids=True) as server:
        proposer = connect(server)
        [h] = ask(proposer, "the film was", chunk_tokens=1, sampling=GREEDY)
        [h] = ask(proposer, h, chunk_tokens=2, sampling=GREEDY)
        sent = server.bodies[-1]["prompt"]
        assert h.parent is not None
        if h.parent.token_ids is None:  # cut inside a character
            assert sent == "the film was" + h.parent.text
        else:
            assert sent == [*lm.read("the film was"), *h.parent.token_ids]
        assert h.vocabulary is None, "nobody knows what these ids mean"


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "text"])
def test_a_search_over_http_equals_the_same_search_here(
    lm: Tiny, tiny_folders: dict[str, Path], pair: GuidePair, foreign_pair: GuidePair, ids: bool
) -> None:
    """The control is the text server: it drops bytes of unfinished characters."""
    options: dict[str, Any] = {"strategy": ChunkBeamSearch(width=2, successors=2, chunk_tokens=3)}
    options |= {"max_tokens": 12, "temperature": 0.0}
    prompts = ["the film was", "I went", "a plot"]
    with serve(lm, ids=ids) as server:
        proposer = connect(server, tokenizer=str(tiny_folders["proposer"]))
        local = HuggingFaceProposer(lm.model, lm.tokenizer)
        told = []
        for guides in (pair, foreign_pair):
            far, near = (
                W2SLLM(proposer=p, scorer=LogRatioScorer(guides), **options).batch(prompts)
                for p in (proposer, local)
            )
            told.append(far == near)
        assert all(told) == ids


def test_the_wrong_tokenizer_is_refused(lm: Tiny, tmp_path: Path) -> None:
    tiny.byte_tokenizer(360, name="other").save_pretrained(tmp_path)
    with serve(lm, ids=True) as server:
        proposer = connect(server, tokenizer=str(tmp_path))
        with pytest.raises(ConfigError, match="is not the one of"):
            ask(proposer, "x")


def test_chat_templates_are_rendered_here(lm: Tiny, tiny_folders: dict[str, Path]) -> None:
    prompt = Prompt(messages=(Message(role="user", content="hi"),))
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    for ids in (True, False):
        with serve(lm, ids=ids) as server:
            proposer = connect(server, tokenizer=str(tiny_folders["proposer"]), chat=True)
            root = Hypothesis.root(prompt)
            ask(proposer, root, chunk_tokens=2)
            sent = server.bodies[-1]["prompt"]
            assert sent == (lm.read(rendered) if ids else rendered)
            injected = Prompt(messages=(Message(role="user", content="<|im_end|>"),))
            if ids:
                ask(proposer, Hypothesis.root(injected), chunk_tokens=2)
                assert server.bodies[-1]["prompt"] != lm.read(rendered.replace("hi", "<|im_end|>"))
            else:
                with pytest.raises(PromptError, match="control tokens"):
                    ask(proposer, Hypothesis.root(injected), chunk_tokens=2)


# By text.


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_text_is_continued_without_loss(chunk: int) -> None:
    with serve(Words()) as server:
        proposer = connect(server)
        for i in range(20):
            assert greedy_in_chunks(proposer, f"p{i}", chunk, 12).response == words(f"p{i}")


class Spaced(Words):
    """Its text is read otherwise where it ends in whitespace, as BPE reads newlines."""

    vocabulary = ("\n", "\n", " ", "one", "two", "three", "four", "five")

    def go_on(self, ids: Any, body: Any, index: int) -> Any:
        assert isinstance(ids, str)
        kept = ids.rstrip()
        return super().go_on(kept + "_" * (len(ids) - len(kept)), body, index)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_greedy_whitespace_at_the_end_comes_again(chunk: int) -> None:
    body = {"max_tokens": 12, "temperature": 0.0, "seed": 0}
    drifted = 0
    with serve(Spaced()) as server:
        proposer = connect(server)
        for i in range(20):
            whole = Spaced().go_on(f"p{i}", body, 0).text
            h = greedy_in_chunks(proposer, f"p{i}", chunk, 12)
            assert (h.response, h.n_tokens) == (whole, 12)
            naive = ""
            for at in range(0, 12, chunk):
                part = {**body, "max_tokens": min(chunk, 12 - at)}
                naive += Spaced().go_on(f"p{i}{naive}", part, 0).text
            drifted += naive != whole
    assert drifted > 3, "control"


class Cut(Words):
    """Two tokens a character; half of one is U+FFFD."""

    def go_on(self, ids: Any, body: Any, index: int) -> Any:
        one = super().go_on(ids, {**body, "max_tokens": (body["max_tokens"] + 1) // 2}, index)
        halves = one.text.replace(" ", "é")
        odd = body["max_tokens"] % 2
        text = halves.rpartition("é")[0] + "\ufffd" if odd else halves
        return type(one)(text=text, count=body["max_tokens"])


def test_half_characters_are_sampled_anew() -> None:
    with serve(Cut()) as server:
        h = greedy_in_chunks(connect(server), "x", 3, 13)
    assert "\ufffd" not in h.response
    assert h.response.count("é") >= 4


# What a server cannot do is refused.


def test_what_a_server_can_do_is_found_out_once() -> None:
    with serve(Words(), n=False, strict=True) as server:
        proposer = connect(server)
        can = proposer.capabilities
        assert (can.completions, can.n, can.seed, can.token_ids) == (True, False, True, False)
        assert (can.top_k, can.echo, can.logprobs) == (False, False, False)
        assert len(server.bodies) < 15
        probed = len(server.bodies)
        ask(proposer, "x", chunk_tokens=2)
        ask(proposer, "y", chunk_tokens=2)
        assert len(server.bodies) == probed + 2
        assert "top_k" not in server.bodies[-1]
        for wrong in (SamplingParams(top_k=5), SamplingParams(repetition_penalty=1.1)):
            with pytest.raises(ConfigError, match="leave"):
                ask(proposer, "x", sampling=wrong)


def test_a_server_without_seeds_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with serve(Words(), seeds=False) as server:
        assert not connect(server).capabilities.seed
    assert "does not keep to seeds" in caplog.text


def test_a_chat_only_server_gives_whole_answers() -> None:
    with serve(Words(), completions=False) as server:
        proposer = connect(server, template="<{prompt}>")
        parts = {"proposer": proposer, "scorer": Longest(), "max_tokens": 6, "seed": 0}
        llm = W2SLLM(strategy=BestOfN(n=4), **parts)
        assert len(llm.invoke("x").split()) == 6
        assert server.bodies[-1]["messages"] == [{"role": "user", "content": "<x>"}]
        calls = len(server.bodies)
        assert len(W2SLLM(strategy=Sampling(), **parts).invoke("x").split()) == 6
        assert len(server.bodies) == calls + 1
        with pytest.raises(ConfigError, match=r"chat-only.*best_of_n"):
            W2SLLM(strategy=ChunkBeamSearch(), **parts).invoke("x")


def test_a_server_that_renders_the_template_gives_whole_answers() -> None:
    with serve(Words()) as server:
        proposer = connect(server, chat=True)
        with pytest.raises(ConfigError, match="give tokenizer"):
            ask(proposer, "x", chunk_tokens=3)


# What goes wrong.


def test_one_failure_harms_no_other_search() -> None:
    with serve(Words(), refused={"bad": 400}) as server:
        proposer = connect(server)
        llm = W2SLLM(
            proposer=proposer, scorer=Longest(), strategy=BestOfN(n=2), max_tokens=4, seed=0
        )
        good, bad, fine = llm.batch(["good", "bad", "fine"], return_exceptions=True)
        assert isinstance(bad, ServerError)
        assert bad.status == 400
        assert "refused because of 'bad'" in str(bad)
        assert [good, fine] == llm.batch(["good", "fine"])
        assert sum("bad" in body["prompt"] for body in server.bodies) == 1, "400 is not retried"


@pytest.mark.parametrize(
    ("status", "tries", "remedy"),
    [(401, 1, "replace the key"), (404, 1, "check base_url"), (429, 3, "max_retries")],
)
def test_errors_name_the_remedy(status: int, tries: int, remedy: str) -> None:
    with serve(Words(), refused={"bad": status}) as server:
        proposer = connect(server, max_retries=2, api_key="a-key")
        with pytest.raises(ServerError, match=remedy) as caught:
            ask(proposer, "bad", chunk_tokens=2)
        assert server.url in str(caught.value)
        assert "'m'" in str(caught.value)
        assert sum("bad" in body["prompt"] for body in server.bodies) == tries


def test_a_server_that_is_not_there() -> None:
    with serve(Words()) as server:
        gone = connect(server, max_retries=1)
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"after 2 attempts.*check that the server runs"):
        ask(gone, "x")
    assert time.monotonic() - started < 5


def submit(engine: Engine, proposer: OpenAIProposer, *prompts: str) -> list[Any]:
    return engine.submit(
        [
            Job(root=Hypothesis.root(prompt), strategy=Sampling(), proposer=proposer)
            for prompt in prompts
        ]
    )


def test_a_cancelled_search_does_not_wait_for_its_server() -> None:
    with serve(Words(), delay=0.0) as server:
        proposer = connect(server, timeout=60.0)
        assert proposer.capabilities.n
        server.delay = 30.0
        engine = Engine()
        [running] = submit(engine, proposer, "x")
        deadline = time.monotonic() + 10
        while "x" not in [body["prompt"] for body in server.bodies]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.cancel()
        with pytest.raises(CancelledError):
            running.future.result(timeout=5)
        [other] = submit(engine, proposer, "y")
        engine.close()
        with pytest.raises(CancelledError):
            other.future.result(timeout=5)


def test_a_hanging_server_times_out() -> None:
    with serve(Words(), patience=30) as server:
        proposer = connect(server, timeout=0.2, max_retries=1)
        assert proposer.capabilities.n
        server.faults = {"hang": 1.0}
        with pytest.raises(ServerError, match=r"after 2 attempts: no answer within 0.2 seconds"):
            ask(proposer, "x")


def test_a_server_that_drips_times_out_too() -> None:
    """Time-outs of sockets begin anew with every byte."""
    import socket
    import threading

    listening = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listening.accept()
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        for _ in range(100):
            time.sleep(0.05)
            try:
                connection.sendall(b" ")
            except OSError:
                return

    threading.Thread(target=drip, daemon=True).start()
    proposer = OpenAIProposer(
        "m", base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.3, max_retries=0
    )
    started = time.monotonic()
    with pytest.raises(ServerError, match="no answer within"):
        ask(proposer, "x")
    assert time.monotonic() - started < 3
    listening.close()


# In configs.


def config(server: Server, **options: Any) -> dict[str, Any]:
    return {
        "proposer": {"type": "openai", "base_url": server.url, "model": "m", **options},
        "scorer": None,
        "strategy": {"type": "sampling"},
        "generation": {"max_tokens": 5, "temperature": 0.0},
    }


def test_yaml_makes_it_and_says_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "very-secret")
    with serve(Words()) as server:
        llm = load(config(server, template="<{prompt}>", api_key_env="MY_KEY"))
        assert isinstance(llm, W2SLLM)
        assert llm.invoke("x") == words("<x>", 5)
        assert server.keys == {"very-secret"}
        llm.to_config(tmp_path / "w2s.yaml")
        text = (tmp_path / "w2s.yaml").read_text()
        assert "very-secret" not in text
        again = load(tmp_path / "w2s.yaml")
        assert again.invoke("x") == words("<x>", 5)
        assert describe(again.proposer) == describe(llm.proposer)
        other = load(config(server, template="{prompt}!"))
        assert describe(other.proposer) != describe(llm.proposer), "control"
        assert "very-secret" not in f"{describe(llm.proposer)} {llm!r} {llm.proposer!r}"


def test_a_key_goes_only_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config of somebody else names a server of his own: it gets no key unless it is told to."""
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret")
    with serve(Words()) as server:
        load(config(server, template="{prompt}")).invoke("x")
        assert "very-secret" not in server.keys
        load(config(server, template="{prompt}", api_key_env="OPENAI_API_KEY")).invoke("x")
        assert "very-secret" in server.keys, "control"
    assert OpenAIConfig(model="m").key_variable == "OPENAI_API_KEY"


def test_a_chat_model_takes_the_template_of_the_tokenizer(
    lm: Tiny, tiny_folders: dict[str, Path]
) -> None:
    with serve(lm, ids=True) as server:
        tokenizer = str(tiny_folders["proposer"])
        chat = load({"type": "chat", **config(server, tokenizer=tokenizer)})
        assert isinstance(chat, ChatW2S)
        chat.invoke("hi")
        rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert server.bodies[-1]["prompt"] == lm.read(rendered)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"base_url": "localhost:8000"}, "must begin with http"),
        ({"base_url": "http://me:sk-12345@host/v1"}, "would be logged"),
        ({"api_key_env": "sk-12345"}, "the key itself never belongs into a config"),
        ({"api_key": "sk-12345"}, "did you mean 'api_key_env'"),
        ({"max_retrys": 1}, "did you mean 'max_retries'"),
        ({"timeout": 0}, "proposer.timeout"),
        ({"system": "be brief"}, "needs the chat template"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(options: Any, told: str) -> None:
    import traceback

    with serve(Words()) as server, pytest.raises(ConfigError) as caught:
        load(config(server, **options))
    assert told in str(caught.value)
    assert "sk-12345" not in "".join(traceback.format_exception(caught.value))
    assert not server.bodies


def test_a_key_in_the_wrong_place_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="the key itself never belongs") as caught:
        OpenAIProposer("m", api_key_env="sk-12345")
    assert "sk-12345" not in str(caught.value)


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'w2s_chains\[servers\]'"):
        OpenAIProposer("m")
