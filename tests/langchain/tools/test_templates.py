"""Chat templates that know tools."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from tests.helpers.tools import STRATEGIES, add, called, schema_of, seen, streamed, tiny_proposer
from w2s_chains import ChatW2S, LogRatioScorer, Sampling
from w2s_chains.backend.constrained.tool_calls import tool_call
from w2s_chains.core.prompts import DEFAULT_CALLS, CallFormat

TURNS = (
    "{% if tools %}<|im_start|>system\nTOOLS {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}BEGIN"
    '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}END'
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def native(begin: str, end: str) -> str:
    return TURNS.replace("BEGIN", begin).replace("END", end)


HISTORY: list[BaseMessage] = [
    HumanMessage("1 + 2?"),
    AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1, "b": 2}, "id": "abcdefghi"}]),
    ToolMessage("3", tool_call_id="abcdefghi"),
]


def test_a_template_with_calls_of_its_own(scorer: LogRatioScorer) -> None:
    proposer = tiny_proposer(native("[CALL]", "[/CALL]"))
    assert proposer.call_format == CallFormat(
        begin="[CALL]", end="[/CALL]", arguments_key="parameters"
    )
    chat = ChatW2S(proposer=proposer, scorer=scorer, strategy=STRATEGIES[-1], max_tokens=99, seed=0)
    bound: Any = chat.bind_tools([add], tool_choice="any")
    [(name, args)] = called(bound.invoke(HISTORY))
    assert name == "add"
    assert set(args) == {"a", "b"}
    assert called(streamed(bound, HISTORY)) == [(name, args)]
    [job] = chat._overridden(None, bound.kwargs).jobs([chat._prompt(HISTORY)])
    assert job.constraint == tool_call(
        {"add": schema_of(add)}, form=proposer.call_format
    )  # what the model writes is what its template writes
    text = proposer.tokenizer
    prompt = text.hf_tokenizer.decode(
        text.prompt_ids(chat._overridden(None, bound.kwargs)._prompt(HISTORY))
    )
    assert 'TOOLS [{"type": "function", "function": {"name": "add"' in prompt
    assert '[CALL]{"name": "add", "parameters": {"a": 1, "b": 2}}[/CALL]<|im_end|>' in prompt
    assert "<|im_start|>tool\n3<|im_end|>" in prompt
    assert "# Tools" not in prompt


@pytest.mark.parametrize(
    ("begin", "end"),
    [("<|im_start|>", ""), ("<s>", "</s>"), ("[CALL]", "<|im_end|>x"), ("", "")],
    ids=["special", "named special", "special end", "no mark"],
)
def test_a_template_whose_calls_no_grammar_follows(
    scorer: LogRatioScorer, begin: str, end: str
) -> None:
    proposer = tiny_proposer(native(begin, end))
    assert proposer.call_format == DEFAULT_CALLS
    chat = ChatW2S(proposer=proposer, scorer=scorer, max_tokens=99, seed=0)
    for choice in ("auto", "any"):
        bound = chat.bind_tools([add], tool_choice=choice, strategy=Sampling())
        assert bool(called(bound.invoke(HISTORY))) == (choice == "any")
    prompt = seen(chat, bound)
    assert "# Tools" in prompt
    assert "TOOLS" not in prompt
