"""Messages and prompts of a call, to a model that answers with the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.helpers.fuzzing import LEAVES, TEXT, anything, fuzz
from w2s_chains import W2SLLM, ChatW2S, Expand, Hypothesis, Proposer


class Words(Proposer):
    def propose(self, requests: Sequence[Expand]) -> Sequence[list[Hypothesis] | Exception]:
        return [
            [
                h.extend("words", finish_reason="eos")
                for h in request.hypotheses
                for _ in range(request.successors)
            ]
            for request in requests
        ]


KEYS = ["role", "content", "type", "text", "tool_calls", "tool_call_id", "name", "args", "id"]
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "human", "ai"]) | TEXT
BLOCKS = st.lists(st.dictionaries(st.sampled_from(KEYS), LEAVES | anything(KEYS), max_size=4))
MESSAGES = st.lists(
    st.tuples(ROLES, TEXT)
    | st.fixed_dictionaries({"role": ROLES, "content": TEXT | BLOCKS}),
    max_size=4,
)  # fmt: skip


def test_prompts_of_a_call(until: float | None) -> None:
    llm = W2SLLM(proposer=Words(), strategy="sampling")
    fuzz(lambda text: llm.generate([text]), TEXT, until)


def test_options_of_a_call(until: float | None) -> None:
    llm = W2SLLM(proposer=Words(), strategy="sampling")
    names = sorted(W2SLLM.call_fields - {"n", "progress"})
    options = st.dictionaries(st.sampled_from(names), anything(["sampling", "type"]), max_size=3)
    fuzz(lambda given: llm.invoke("a", **given), options, until)


def test_messages(until: float | None) -> None:
    chat = ChatW2S(proposer=Words(), strategy="sampling")

    def check(messages: Any) -> None:
        from langchain_core.messages import convert_to_messages

        try:
            own = convert_to_messages(messages)
        except Exception:
            return  # LangChain itself refuses them
        chat.invoke(own)

    fuzz(check, MESSAGES, until)
