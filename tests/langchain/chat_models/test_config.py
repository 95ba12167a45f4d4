"""A ChatW2S by config, and when models use their chat templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import w2s_chains
from tests.helpers.chats import TALK
from w2s_chains import W2SLLM, ChatW2S, Prompt, Sampling
from w2s_chains.errors import ConfigError
from w2s_chains.langchain.messages import to_prompt


@pytest.fixture
def config(tiny_folders: dict[str, Path]) -> dict[str, Any]:
    return {
        "proposer": {"model": str(tiny_folders["proposer"])},
        "guide": {
            "tuned": str(tiny_folders["tuned"]),
            "untuned": {"model": str(tiny_folders["untuned"]), "chat": False},
        },
        "strategy": {"type": "chunk_beam", "width": 2, "successors": 2, "chunk_tokens": 4},
        "generation": {"max_tokens": 8, "seed": 0},
    }


def uses_template(part: Any) -> bool:
    return part.tokenizer.chat is not None


def test_load_makes_what_the_config_says(config: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "w2s.yaml"
    file.write_text(yaml.safe_dump({"type": "chat", **config}))
    chat = w2s_chains.load(file)
    assert isinstance(chat, ChatW2S)
    assert uses_template(chat.proposer)
    assert chat.scorer is not None
    assert uses_template(chat.scorer.pair.tuned)
    assert not uses_template(chat.scorer.pair.untuned)
    for kind in ({}, {"type": "llm"}):
        llm = w2s_chains.load({**kind, **config}, max_tokens=9)
        assert isinstance(llm, W2SLLM)
        assert llm.max_tokens == 9
        assert not uses_template(llm.proposer)
    with pytest.raises(ConfigError, match=r"'talk'"):
        w2s_chains.load({"type": "talk", **config})


def test_each_class_reads_configs_of_its_own_type(config: dict[str, Any]) -> None:
    chat = ChatW2S.from_config(config)
    assert uses_template(chat.proposer)
    assert (
        chat.invoke(TALK).content
        == ChatW2S.from_config({"type": "chat", **config}).invoke(TALK).content
    )
    with pytest.raises(ConfigError, match=r"type 'chat'.*W2SLLM.*type 'llm'.*w2s_chains.load"):
        W2SLLM.from_config({"type": "chat", **config})
    with pytest.raises(ConfigError, match=r"type 'llm'.*ChatW2S.*type 'chat'"):
        ChatW2S.from_config({"type": "llm", **config})


def test_a_system_message_needs_no_word_about_the_template(config: dict[str, Any]) -> None:
    config["proposer"]["system"] = "Be brief."
    chat = ChatW2S.from_config(config)
    assert chat.proposer.tokenizer.template.system == "Be brief."
    assert w2s_chains.load({"type": "chat", **config}).to_config() == chat.to_config()
    named = ChatW2S.from_pretrained(
        config["proposer"]["model"], proposer_system="Be brief.", strategy=Sampling()
    )
    assert uses_template(named.proposer)
    with pytest.raises(ConfigError, match="set chat to true"):
        W2SLLM.from_config(config)
    config["proposer"]["chat"] = False
    with pytest.raises(ConfigError, match="set chat to true"):
        ChatW2S.from_config(config)


@pytest.mark.parametrize("template", [None, False, True])
def test_what_to_config_writes_reads_the_same(
    config: dict[str, Any], tmp_path: Path, template: bool | None
) -> None:
    if template is not None:
        config["proposer"]["chat"] = template
    chat = ChatW2S.from_config(config)
    assert uses_template(chat.proposer) == (template is not False)
    file = tmp_path / "w2s.yaml"
    values = chat.to_config(file)
    again = w2s_chains.load(file)
    assert isinstance(again, ChatW2S)
    assert again.to_config() == values
    assert again.asdict() == chat.asdict()
    assert again.invoke(TALK).content == chat.invoke(TALK).content


def test_from_pretrained_uses_chat_templates(tiny_folders: dict[str, Path]) -> None:
    names = {name: str(tiny_folders[name]) for name in ("tuned", "untuned")}
    chat = ChatW2S.from_pretrained(str(tiny_folders["proposer"]), **names, guide_chat=False)
    assert uses_template(chat.proposer)
    assert chat.scorer is not None
    assert not uses_template(chat.scorer.pair.tuned)
    raw = ChatW2S.from_pretrained(
        str(tiny_folders["proposer"]), proposer_chat=False, strategy=Sampling()
    )
    assert not uses_template(raw.proposer)
    read = raw.proposer.tokenizer
    assert (
        read.decode(read.prompt_ids(to_prompt(TALK)))
        == Prompt(messages=to_prompt(TALK).messages).plain_text
    )
