"""Candidates without replacement over HTTP: what is refused, and replies that cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.likeliest import TellingTiny, TellingWords
from tests.helpers.openai_proposer import GREEDY, Longest, ask, connect, distinct
from tests.helpers.served import Tiny, Words, serve
from w2s_chains import W2SLLM, SamplingParams, TokenSearch
from w2s_chains.errors import ConfigError, ServerError

REFUSED: dict[str, tuple[Any, dict[str, Any], dict[str, Any], str]] = {
    "no top_logprobs": (Words(), {}, {}, "tells no top_logprobs.*vLLM.*leave out distinct"),
    "chat-only": (Words(), {"completions": False}, {}, "tells no top_logprobs"),
    "few": (TellingWords(), {"most": 5}, {}, "tells the 5 likeliest.*for 6 different.*at most 5"),
    "further": (TellingWords(), {"most": 5}, {"first": 4, "successors": 2}, "for 6 different"),
    "penalty": (
        TellingWords(),
        {},
        {"sampling": SamplingParams(repetition_penalty=1.2)},
        "repetition_penalty=1.2 cannot be applied.*leave repetition_penalty out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_server_cannot_do_is_refused_before_work_starts(name: str) -> None:
    model, options, fields, told = REFUSED[name]
    with serve(model, **options) as server:
        proposer = connect(server)
        with pytest.raises(ConfigError, match=told):
            distinct(proposer, "prompt", **fields)
        assert not [body for body in server.bodies if "prompt" in str(body.get("prompt", ""))[:6]]
        if options.get("completions", True):
            assert ask(proposer, "prompt", successors=2, chunk_tokens=1), (
                "control: independent ones"
            )


def test_a_search_says_what_is_missing() -> None:
    with serve(Words()) as server:
        llm = W2SLLM(
            proposer=connect(server), scorer=Longest(), strategy=TokenSearch(distinct=True)
        )
        with pytest.raises(ConfigError, match="tells no top_logprobs"):
            llm.invoke("x")
    with serve(TellingWords(), most=20) as server:
        assert connect(server).capabilities.top_logprobs == 12
        llm = W2SLLM(
            proposer=connect(server), scorer=Longest(), max_tokens=5,
            strategy=TokenSearch(candidates=6, distinct=True),
        )  # fmt: skip
        assert len(llm.invoke("x").split()) == 5


def test_names_that_are_no_pieces_of_the_text_are_refused(
    lm: Tiny, tiny_folders: dict[str, Path]
) -> None:
    """A space is a letter of its own in them; token ids help where the server tells those."""
    model = TellingTiny(lm.model, lm.tokenizer, "pieces")
    with serve(model, ids=True) as server:
        with pytest.raises(ConfigError, match=r"otherwise than they stand in its text.*give token"):
            distinct(connect(server), "x")
        assert distinct(connect(server, tokenizer=str(tiny_folders["proposer"]), chat=False), "x")
    with serve(model) as server, pytest.raises(ConfigError, match="server that tells token ids"):
        distinct(connect(server), "x")


def test_a_name_without_its_space_is_found_out_later_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TellingWords()
    with serve(model) as server:
        proposer = connect(server)
        assert distinct(proposer, "x")
        go_on = model.go_on

        def stripped(ids: Any, body: Any, index: int) -> Any:
            one = go_on(ids, body, index)
            assert one.logprobs is not None
            one.logprobs["tokens"] = [name.strip() for name in one.logprobs["tokens"]]
            return one

        monkeypatch.setattr(model, "go_on", stripped)
        with pytest.raises(ServerError, match="names the token of the text"):
            distinct(proposer, "x")


WRONG: dict[str, tuple[Callable[[dict[str, float]], Any], str]] = {
    "missing": (lambda top: None, r"top_logprobs: Input should be a valid"),
    "NaN": (lambda top: {**top, " x": math.nan}, "nan is no log-probability"),
    "infinite": (lambda top: {**top, " x": -math.inf}, "-inf is no log-probability"),
    "positive": (lambda top: {**top, " x": 0.5}, "0.5 is no log-probability"),
    "text": (lambda top: {**top, " x": "often"}, "top_logprobs: Input should be a valid number"),
    "more than 1": (lambda top: dict.fromkeys(top, -0.1), "probabilities that sum up to"),
    "too few": (lambda top: dict([*top.items()][:2]), "told the 2 likeliest tokens.*where 12"),
    "none": (lambda top: {}, "told the 0 likeliest tokens"),
    "too many": (
        lambda top: {f" {i}": -99.0 for i in range(99)},
        "99 top_logprobs for logprobs=12",
    ),
    "a list": (lambda top: [*top], "top_logprobs: Input should be a valid dict"),
    "long": (lambda top: {**top, "x" * 999: -9.0}, "a text of 999 characters"),
    "words": (lambda top: {**top, " x" * 9: -9.0}, "9 words"),
    "10 MB": (lambda top: {**top, "x" * 10**7: -9.0}, r"longer than 1,\d\d\d,\d\d\d bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_replies_are_one_clear_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, told = WRONG[name]
    model = TellingWords()
    with serve(model) as server:
        proposer = connect(server, max_retries=0)
        fine = [child.text for child in distinct(proposer, "x")]
        monkeypatch.setattr(model, "told", change)
        with pytest.raises(ServerError, match=told) as caught:
            distinct(proposer, "x")
        assert len(str(caught.value)) < 400
        monkeypatch.undo()
        assert [child.text for child in distinct(proposer, "x")] == fine


@pytest.mark.parametrize("gone", ["logprobs", "top_logprobs", "position"])
def test_replies_without_them_are_one_clear_error(
    gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TellingWords()
    with serve(model) as server:
        proposer = connect(server, max_retries=0)
        assert distinct(proposer, "x")
        answer = server.answer

        def without(body: dict[str, Any], chat: bool) -> Any:
            status, reply = answer(body, chat)
            for choice in reply["choices"]:
                if gone == "logprobs":
                    del choice["logprobs"]
                elif gone == "top_logprobs":
                    choice["logprobs"]["top_logprobs"] = None
                else:
                    choice["logprobs"]["top_logprobs"] *= 2
            return status, reply

        monkeypatch.setattr(server, "answer", without)
        told = "of 2 positions for 1 tokens" if gone == "position" else "told the 0 likeliest"
        with pytest.raises(ServerError, match=told):
            distinct(proposer, "x")


def test_names_that_come_twice_are_one_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as likely as the likelier one."""
    model = TellingWords()
    with serve(model) as server:
        proposer = connect(server)
        cold = distinct(proposer, "x", sampling=GREEDY)

        def told(top: dict[str, float]) -> list[dict[str, Any]]:
            twice = [*top.items(), *((name, value - 3) for name, value in top.items())]
            return [{"token": name, "logprob": min(value - 0.1, 0)} for name, value in twice]

        monkeypatch.setattr(model, "told", lambda top: told(dict([*top.items()][:6])))
        doubled = distinct(proposer, "x", sampling=GREEDY)
    assert [child.text for child in doubled] == [child.text for child in cold]
    assert [child.logprobs for child in doubled] == [
        pytest.approx((child.logprobs[0] - 0.1,)) for child in cold if child.logprobs
    ]
