"""Tools in every form that LangChain takes, and models that call them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    message_chunk_to_message,
)
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from tests.helpers import tiny
from w2s_chains import (
    BestOfN,
    ChatW2S,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    Sampling,
    SearchStrategy,
)
from w2s_chains.backend.constrained.compile import byte_matcher
from w2s_chains.core.prompts import DEFAULT_CALLS, CallFormat
from w2s_chains.core.sampling import Constraint, SamplingParams
from w2s_chains.langchain.tools import tool_dicts

TALK: list[BaseMessage] = [SystemMessage("Be kind."), HumanMessage("How warm is it in Rome?")]
STRATEGIES: list[SearchStrategy] = [
    Sampling(),
    BestOfN(n=3),
    EmulatedFineTuning(),
    ChunkBeamSearch(width=2, successors=2, chunk_tokens=5),
]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.type)


class City(BaseModel):
    """Where it is."""

    name: str = Field(max_length=8)
    zip: int = Field(ge=0, le=99)


class Weather(BaseModel):
    """How the weather is."""

    city: City
    unit: Literal["C", "F"] = "C"


class Dated(TypedDict):
    """When it is."""

    day: Annotated[int, ..., "the day"]
    month: Annotated[Literal["may", "june"], ..., "the month"]


class Tree(BaseModel):
    """A tree."""

    leaf: Literal["a", "b"]
    children: list[Tree] = Field(default=[], max_length=2)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def shout(text: Annotated[str, Field(max_length=6)]) -> str:
    """Say it loudly."""
    return text.upper()


NOW: dict[str, Any] = {"title": "now", "description": "The time.", "type": "object"}
PAIR: dict[str, Any] = {
    "title": "pair",
    "type": "object",
    "properties": {"x": {"enum": [1, 2]}, "y": {"type": "boolean"}},
    "required": ["x", "y"],
}
CHOICE: dict[str, Any] = {"title": "choice", "anyOf": [PAIR, {**PAIR, "required": ["x"]}]}
OPENAI: dict[str, Any] = {
    "type": "function",
    "function": {"name": "openai", "parameters": {k: PAIR[k] for k in ("type", "properties")}},
}
FORMS: dict[str, Any] = {
    "add": add, "shout": shout, "Weather": Weather, "Dated": Dated, "Tree": Tree, "now": NOW,
    "pair": PAIR, "choice": CHOICE, "openai": OPENAI,
}  # fmt: skip


def schema_of(one: Any) -> dict[str, Any]:
    [described] = tool_dicts([one])
    return described["function"].get("parameters", {"type": "object", "maxProperties": 0})


def tiny_proposer(template: str = tiny.CHATML) -> HuggingFaceProposer:
    tokenizer = copy.deepcopy(tiny.byte_tokenizer())
    tokenizer.chat_template = template
    model = tiny.llama(320, max_position_embeddings=8192)
    return HuggingFaceProposer(model, tokenizer, chat=True)


class Scripted:
    """Answers with a given text in pieces, which must have the form that is asked for."""

    def __init__(self, text: str, size: int = 3, form: CallFormat = DEFAULT_CALLS) -> None:
        self.script, self.size, self.call_format = text, size, form

    def check_constraint(self, constraint: Constraint, sampling: SamplingParams) -> None:
        matcher = byte_matcher(constraint)
        script = self.script.encode()
        assert matcher.try_consume_tokens(list(script)) == len(script), self.script
        assert matcher.is_accepting(), self.script

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        return [
            [child for h in r.hypotheses for child in [self._next(h)] * r.successors]
            for r in requests
        ]

    def _next(self, h: Hypothesis) -> Hypothesis:
        end = len(h.response) + self.size
        piece = self.script[len(h.response) : end]
        return h.extend(piece, finish_reason="eos" if end >= len(self.script) else None)


def scripted(text: str, **options: Any) -> ChatW2S:
    return ChatW2S(proposer=Scripted(text, **options), strategy=Sampling())


def streamed(model: Any, talk: Any = TALK) -> AIMessage:
    """What the chunks of a stream add up to."""
    chunks = list(model.stream(talk))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    message = message_chunk_to_message(whole)
    assert isinstance(message, AIMessage)
    return message


def called(message: Any) -> list[tuple[str, dict[str, Any]]]:
    assert not message.invalid_tool_calls
    return [(call["name"], call["args"]) for call in message.tool_calls]


def seen(chat: ChatW2S, bound: Any) -> str:
    """The prompt as the proposer reads it, when a bound model is called."""
    model = chat._overridden(None, {k: v for k, v in bound.kwargs.items() if k in chat.call_fields})
    text = chat.proposer.tokenizer
    return text.hf_tokenizer.decode(text.prompt_ids(model._prompt(TALK)))


TWO = (
    '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)
METHODS: list[Any] = ["json_schema", "function_calling", "json_mode"]
