"""A proposer behind a server, in configs; and where its key goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.openai_proposer import words
from tests.helpers.served import Server, Tiny, Words, serve
from w2s_chains import W2SLLM, ChatW2S, load
from w2s_chains.core.contracts import key_of
from w2s_chains.errors import ConfigError
from w2s_chains.proposers import OpenAIConfig, OpenAIProposer


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
        assert key_of(again.proposer) == key_of(llm.proposer)
        other = load(config(server, template="{prompt}!"))
        assert key_of(other.proposer) != key_of(llm.proposer), "control"
        assert "very-secret" not in f"{key_of(llm.proposer)} {llm!r} {llm.proposer!r}"


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
