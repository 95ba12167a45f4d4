"""Thoughts between special tokens are told apart; guides may read the answer alone."""

from __future__ import annotations

import copy
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk

from tests.helpers import tiny
from tests.helpers.chat_pieces import SPLIT, Family, jinja
from w2s_chains import (
    W2SLLM,
    ChatW2S,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    LogRatioScorer,
    OpenAIProposer,
    Prompt,
    Sampling,
)
from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis

MAGISTRAL = Family(
    template=jinja(
        SPLIT,
        """
        {{ bos_token }}{% if system %}{{ '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}
        {% else %}{{ '[SYSTEM_PROMPT]Think first:[THINK]draft[/THINK]answer.[/SYSTEM_PROMPT]' }}
        {% endif %}
        {% for m in turns %}
        {% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
        {% else %}{{ m.content + eos_token }}{% endif %}
        {% endfor %}
        """,
    ),
    bos="<s>", eos="</s>", end="</s>", opening="[/INST]", question="", talk="",
    special=(
        "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]",
    ),
)  # fmt: skip
GPT_OSS = Family(
    template=jinja(
        """
        {% for m in messages %}
        {% if m.role != 'assistant' %}
        {{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
        {% else %}
        {% if m.thinking %}
        {{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}
        {% endif %}
        {{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}
        {{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
        {% endif %}
        {% endfor %}
        {% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}
        """,
    ),
    bos=None, eos="<|return|>", end="<|return|>", opening="<|start|>assistant", question="",
    talk="", special=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"),
)  # fmt: skip
ANSWERS = [
    (MAGISTRAL, "[THINK]Is it? \n[/THINK]\n\nÄlso yes.", "Is it?", "[/THINK]"),
    (MAGISTRAL, "Älso yes.", "", "[/THINK]"),
    (
        GPT_OSS,
        "<|channel|>analysis<|message|>Is it?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Älso yes.",
        "Is it?",
        "<|channel|>final<|message|>",
    ),
    (GPT_OSS, "<|channel|>final<|message|>Älso yes.", "", "<|channel|>final<|message|>"),
]
"""A family, an answer, its thoughts, and the mark after which what is said begins."""


class Forced(HuggingFaceProposer):
    """Writes one text's tokens, and then its end token, a number at a time."""

    def say(self, text: str, size: int) -> Forced:
        self.script, self.size = self.tokenizer.encode(text), size
        return self

    def propose(self, requests: Any) -> list[list[Hypothesis]]:
        return [self._children(request) for request in requests]

    def _children(self, request: Expand) -> list[Hypothesis]:
        [parent] = request.hypotheses
        at = parent.n_tokens
        ids = tuple(self.script[at : at + self.size])
        known = self.tokenizer
        text, pending = known.decode_after(known.context(parent), parent.pending, ids)
        return [
            parent.extend(
                text, ids, pending=pending, vocabulary=known.vocabulary,
                finish_reason="eos" if at + self.size >= len(self.script) else None,
            )
        ]  # fmt: skip


def forced(family: Family, text: str, size: int) -> Forced:
    return Forced(tiny.llama(320), family.tokenizer("own"), chat=True).say(text, size)


@pytest.mark.parametrize("size", [1, 3, 99])
@pytest.mark.parametrize(("family", "text", "thought", "mark"), ANSWERS)
def test_thoughts_are_told_apart(
    family: Family, text: str, thought: str, mark: str, size: int
) -> None:
    proposer = forced(family, text, size)
    model = ChatW2S(proposer=proposer, strategy=Sampling(), max_tokens=150)
    whole = model.invoke("Yes?")
    told = {"reasoning_content": thought} if thought else {}
    assert (whole.content, whole.additional_kwargs) == ("Älso yes.", told)
    streamed: AIMessageChunk = reduce(add, model.stream("Yes?"))
    assert (streamed.content, streamed.additional_kwargs) == (whole.content, told)
    assert model.profile is not None
    assert model.profile.get("reasoning_output") is True
    plain = W2SLLM(proposer=proposer, strategy=Sampling(), max_tokens=150)
    assert plain.invoke("Yes?") == text, "a plain answer has the marks, as those that are text"


@pytest.mark.parametrize("family", [MAGISTRAL, GPT_OSS])
def test_only_marks_of_thoughts_are_text(family: Family) -> None:
    tokenizer = forced(family, "", 1).tokenizer
    assert tokenizer.chat is not None
    form = tokenizer.chat.thoughts
    assert form is not None
    special = [family.eos, *family.special]
    kept = tokenizer.decode(tokenizer.encode("a".join(special)))
    assert kept == "a".join(one if one in form.begin + form.end else "" for one in special)
    raw = Forced(tiny.llama(320), family.tokenizer("own"), chat=False).tokenizer
    assert raw.decode(raw.encode("a".join(special))) == "a" * (len(special) - 1), "control"


@pytest.mark.parametrize("size", [1, 3, 99])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("family", "text", "thought", "mark"), [ANSWERS[0], ANSWERS[2]])
def test_guides_may_read_the_answer_alone(
    family: Family, text: str, thought: str, mark: str, same: bool, size: int
) -> None:
    tokenizer = family.tokenizer("own") if same else tiny.byte_tokenizer(330)
    guides = [HuggingFaceGuide(tiny.llama(330, seed=seed), tokenizer, chat=True) for seed in (1, 2)]
    proposer = forced(family, text, size)
    node = root = Hypothesis(prompt=Prompt(text="Yes?"))
    while not node.finished:
        asked = Expand(hypotheses=(node,), successors=1)
        [[node]] = proposer.propose([asked])
    assert node.response == text
    wanted = root.extend("Älso yes.", finish_reason="eos")
    plain = LogRatioScorer(GuidePair(*guides))
    [score] = LogRatioScorer(GuidePair(*guides), after=mark).score([node])
    [expected], [whole] = plain.score([wanted]), plain.score([node])
    assert score == pytest.approx(expected, abs=1e-4)
    assert abs(whole - expected) > 1e-2, "control"


@pytest.mark.parametrize("special", [True, False])
def test_a_server_may_leave_special_tokens_out(tmp_path: Path, special: bool) -> None:
    """Where the prompt has begun the thoughts, an answer without marks would be all thoughts."""
    tokenizer = MAGISTRAL.tokenizer("own") if special else copy.deepcopy(tiny.byte_tokenizer())
    for opening, known in (("", True), ("[THINK]", not special)):
        tokenizer.chat_template = str(MAGISTRAL.template) + opening
        tokenizer.save_pretrained(tmp_path)
        proposer = OpenAIProposer("m", tokenizer=str(tmp_path), chat=True)
        assert (proposer.thoughts(Prompt(text="Yes?")) is not None) is known
