"""A judge behind HTTP, through LangChain's own package: its grades, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.helpers.faulty import serving
from tests.helpers.served import Continued, Server, serve
from w2s_chains import W2SLLM, load
from w2s_chains.backend.remote.langchain_models import model_error
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.errors import ConfigError, ScorerError, ServerError
from w2s_chains.scorers import LLMJudgeConfig

JUDGE = {"type": "llm_judge", "model": "openai:judge", "template": "{prompt}|{response}"}


class Grader:
    """Grades by the number of letters "o" in the response."""

    def read(self, prompt: str) -> list[int]:
        return [ord(letter) for letter in prompt]

    def go_on(self, ids: Sequence[int] | str, body: Mapping[str, Any], index: int) -> Continued:
        assert isinstance(ids, str)
        _, _, response = ids.partition("|")
        grade = "no idea" if "?" in response else str(response.count("o"))
        return Continued(text=grade, finish_reason="stop", count=1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve(Grader(), completions=False, strict=True) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        yield server


def test_it_grades_what_it_is_shown(server: Server) -> None:
    scorer = LLMJudgeConfig.model_validate(JUDGE).build(None)
    root = Hypothesis.root("a {response}")
    assert scorer.score([root.extend(" foo"), root.extend(" {prompt}"), root.extend("x")]) == [
        2.0, 1.0, 0.0,
    ]  # fmt: skip
    asked = {body["messages"][0]["content"] for body in server.bodies}
    assert asked == {"a {response}| foo", "a {response}| {prompt}", "a {response}|x"}
    assert {body["temperature"] for body in server.bodies} == {0.0}
    with pytest.raises(ScorerError, match=r"the Runnable .openai:judge. gave .no idea."):
        scorer.score([root.extend("?")])


def test_it_steers_a_search_from_a_config(server: Server) -> None:
    config = {
        "proposer": {"model": "embedded:smollm2-135m-instruct"},
        "scorer": JUDGE,
        "strategy": {"type": "chunk_beam", "width": 2, "successors": 4, "chunk_tokens": 3},
        "generation": {"max_tokens": 9, "seed": 0},
    }
    llm = load(config)
    assert isinstance(llm, W2SLLM)
    plain = llm.generate(["The"], strategy={"type": "sampling"}).generations[0][0]
    best = llm.generate(["The"]).generations[0][0]
    assert (best.generation_info or {})["score"] == best.text.count("o") > plain.text.count("o")
    again = load(llm.to_config())
    assert again.to_config() == llm.to_config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nobody:judge"}, "'nobody:judge', which should be provider:model"),
        ({"template": "grade: {response}"}, r"scorer.*has no '\{prompt\}'"),
        ({"temperature": -1}, "scorer.temperature"),
    ],
)
def test_wrong_judges_are_refused(server: Server, changes: Any, message: str) -> None:
    config = {"proposer": {"model": "./no-such-model"}, "scorer": {**JUDGE, **changes}}
    with pytest.raises(ConfigError, match=message):
        load(config)
    assert not server.bodies


def test_a_judge_is_not_read_for_longer_than_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server sends a space every 50 ms for ever."""
    with serving("trickles") as server:
        server.on = True
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        judge = LLMJudgeConfig(model="openai:judge", timeout=0.2).build(None)
        before = set(threading.enumerate())
        with pytest.raises((ScorerError, ServerError), match="raise timeout"):
            judge.score([Hypothesis.root("a").extend(" b")])
        assert server.requests == 1
        for thread in set(threading.enumerate()) - before:  # ours, and the server's
            thread.join(timeout=10)
            assert not thread.is_alive()


@pytest.mark.parametrize("ours", [True, False])
def test_an_error_holds_no_reply_of_a_model_that_we_made(ours: bool) -> None:
    """Its traceback would hold the frames that read the reply."""

    def read() -> None:
        try:
            raise ServerError("the reply is longer than it may be")
        except ServerError as error:
            raise RuntimeError("connection lost") from error

    with pytest.raises(RuntimeError) as raised:
        read()
    spec = LLMJudgeConfig(model="openai:judge") if ours else None
    found = model_error(raised.value, None, "the judge", ScorerError, spec)
    assert str(found) == "the reply is longer than it may be"
    assert (found.__traceback__ is None) is ours
