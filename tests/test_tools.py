"""Tools and structured output of ChatW2S: whatever the model would rather write, it parses."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, wrap_model_call
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.tools import tool
from langgraph.errors import GraphRecursionError
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from tests import tiny
from tests.backend.test_grammar import MODELS, PERSON, accepts, decode, grammars, walk
from tests.backend.test_tool_calls import LLAMA, TOOLS, calls
from tests.test_llms import forwards
from w2s_chains import (
    BestOfN,
    ChatW2S,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Expand,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Sampling,
    SearchStrategy,
)
from w2s_chains.backend.constrained.compile import byte_matcher, check_constraint
from w2s_chains.backend.constrained.tool_calls import (
    text_or_tool_call,
    tool_call,
    tool_call_or_json,
)
from w2s_chains.backend.text.call_format import DEFAULT_CALLS, CallFormat
from w2s_chains.core.sampling import Constraint, SamplingParams
from w2s_chains.errors import ConfigError, ConstraintError
from w2s_chains.langchain.tools import CallReader, read_whole, tool_dicts

TALK: list[BaseMessage] = [SystemMessage("Be kind."), HumanMessage("How warm is it in Rome?")]
STRATEGIES: list[SearchStrategy] = [
    Sampling(),
    BestOfN(n=3),
    EmulatedFineTuning(),
    ChunkBeamSearch(width=2, successors=2, chunk_tokens=5),
]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.type)


# The same tool in every form that LangChain takes.


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


# Models.


def tiny_proposer(template: str = tiny.CHATML) -> HuggingFaceProposer:
    tokenizer = copy.deepcopy(tiny.byte_tokenizer())
    tokenizer.chat_template = template
    model = tiny.llama(320, max_position_embeddings=8192)
    return HuggingFaceProposer(model, tokenizer, chat=True)


@pytest.fixture
def proposer() -> HuggingFaceProposer:
    return tiny_proposer()


@pytest.fixture
def pair() -> GuidePair:
    base, tokenizer = tiny.llama(320, seed=1, max_position_embeddings=8192), tiny.byte_tokenizer()
    tuned = tiny.noisy(base)
    return GuidePair(HuggingFaceGuide(tuned, tokenizer), HuggingFaceGuide(base, tokenizer))


@pytest.fixture
def chat(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> ChatW2S:
    return ChatW2S(
        proposer=proposer, scorer=scorer, strategy=STRATEGIES[-1], max_tokens=160, seed=0
    )


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
    return message_chunk_to_message(whole)


def called(message: Any) -> list[tuple[str, dict[str, Any]]]:
    assert not message.invalid_tool_calls
    return [(call["name"], call["args"]) for call in message.tool_calls]


def seen(chat: ChatW2S, bound: Any) -> str:
    """The prompt as the proposer reads it, when a bound model is called."""
    model = chat._overridden(None, {k: v for k, v in bound.kwargs.items() if k in chat.call_fields})
    text = chat.proposer.text
    return text.tokenizer.decode(text.prompt_ids(model._prompt(TALK)))


# Tools, however they are given.


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_forced_call_is_valid_whatever_the_tool_is_given_as(chat: ChatW2S, name: str) -> None:
    bound = chat.bind_tools([FORMS[name]], tool_choice=name)
    for seed in range(3):
        message = bound.invoke(TALK, seed=seed)
        [(called_name, args)] = called(message)
        assert called_name == name
        jsonschema.validate(args, schema_of(FORMS[name]))
        assert message.content == ""
        assert message.response_metadata["finish_reason"] == "tool_calls"
    assert f'"name": "{name}"' in seen(chat, bound)
    with pytest.raises(jsonschema.ValidationError):  # control
        jsonschema.validate({"no": "such argument"}, schema_of({**PAIR, "title": name}))


def test_what_is_called_can_be_run(chat: ChatW2S) -> None:
    for seed in range(5):
        asked = {"seed": seed, "tool_choice": "any"}
        message = chat.bind_tools([add, shout, Weather, Tree], **asked).invoke(TALK)
        [(name, args)] = called(message)
        runs: dict[str, Any] = {"add": lambda args: add(**args), "shout": shout.invoke}
        runs |= {"Weather": Weather.model_validate, "Tree": Tree.model_validate}
        runs[name](args)


def test_nothing_of_a_schema_is_lost() -> None:
    """LangChain's own conversion makes anything of a recursive model, and of a bare choice."""
    assert "$ref" in json.dumps(schema_of(Tree))
    assert schema_of(CHOICE) == {"anyOf": CHOICE["anyOf"]}
    assert schema_of(NOW) == {"type": "object", "maxProperties": 0}
    assert schema_of(Weather)["$defs"]["City"]["properties"]["name"] == {
        "maxLength": 8, "type": "string",
    }  # fmt: skip
    tree: dict[str, Any] = {"leaf": "a", "children": [{"leaf": "b", "children": []}]}
    jsonschema.validate(tree, schema_of(Tree))
    tree["children"][0]["leaf"] = "c"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, schema_of(Tree))


def test_equal_tools_count_once() -> None:
    described = tool_dicts([add])
    assert tool_dicts([add, add, described[0], copy.deepcopy(described[0])]) == described
    told = copy.deepcopy(described[0])
    told["function"]["description"] = "Said in other words."
    assert tool_dicts([add, told]) == described
    other = copy.deepcopy(described[0])
    other["function"]["parameters"]["properties"]["title"] = {"type": "string"}
    with pytest.raises(ConfigError, match=r"two tools have the name 'add'; rename"):
        tool_dicts([add, other])


# Which tool.


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("any", {"add", "now"}),
        ("required", {"add", "now"}),
        (True, {"add", "now"}),
        ("now", {"now"}),
        ({"type": "function", "function": {"name": "now"}}, {"now"}),
        ({"type": "tool", "name": "add"}, {"add"}),
        ({"type": "any"}, {"add", "now"}),
        ("none", set()),
        ("auto", set()),  # a random model hardly ever hits the mark of a call
        (None, set()),
        (False, set()),
    ],
)
def test_tool_choice(chat: ChatW2S, choice: Any, names: set[str]) -> None:
    bound = chat.bind_tools([add, NOW], tool_choice=choice)
    messages = [
        bound.invoke(TALK, seed=seed, strategy=Sampling(), max_tokens=90) for seed in range(9)
    ]
    assert {name for message in messages for name, _ in called(message)} == names
    assert all(bool(message.content) != bool(message.tool_calls) for message in messages)
    assert ("# Tools" in seen(chat, bound)) == (choice != "none")
    assert all(len(message.tool_calls) <= 1 for message in messages)


TWO = (
    '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("Hello <tool>!  ", "Hello <tool>!  ", []),
        (TWO, "", [("add", {"a": 1, "b": 2}), ("now", {})]),
        ("Let me see: {x}\n" + TWO, "Let me see: {x}", [("add", {"a": 1, "b": 2}), ("now", {})]),
        ("", "", []),
    ],
)
def test_text_before_calls(text: str, said: str, calls: list[Any], size: int) -> None:
    bound = scripted(text, size=size).bind_tools([add, NOW], parallel_tool_calls=True)
    for message in (bound.invoke(TALK), streamed(bound)):
        assert (message.content, called(message)) == (said, calls)
        assert message.response_metadata["finish_reason"] == ("tool_calls" if calls else "eos")


def test_parallel_calls() -> None:
    several = scripted(TWO).bind_tools([add, NOW], parallel_tool_calls=True, tool_choice="any")
    message = several.invoke(TALK)
    assert [name for name, _ in called(message)] == ["add", "now"]
    assert len({call["id"] for call in message.tool_calls}) == 2
    for choice in ("auto", "any"):
        with pytest.raises(AssertionError, match="tool_call"):  # it has not the form
            scripted(TWO).bind_tools([add, NOW], tool_choice=choice)


# Refusals, when tools are bound.


class Remote:
    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        raise AssertionError


@pytest.mark.parametrize(
    ("tools", "options", "told"),
    [
        ([add], {"tool_choice": "ad"}, "tool_choice 'ad' is none of the tools; did you mean 'add'"),
        ([add], {"tool_choice": {"type": "function", "function": {"name": "x"}}}, "'x' is none"),
        ([add], {"tool_choice": ["add"]}, r"tool_choice \['add'\] is none of the tools"),
        ([], {"tool_choice": "any"}, "'any', but there are no tools"),
        ([add, {**NOW, "title": "add"}], {}, "two tools have the name 'add'; rename one"),
        ([{**NOW, "title": "any"}], {}, "tool_choice 'any' would not mean the tool 'any'; rename"),
        ([{"type": "web_search"}], {}, "'web_search'.*is not a function.*give functions"),
        ([3], {}, "tool 3 cannot be described"),
        ([{"type": "object", "properties": {}}], {}, "cannot be described.*'title'"),
        (3, {}, "tools are a list, not 3"),
        ([{"title": "x", "type": "array", "items": {}}], {}, "arguments of tool 'x'.*'array'"),
        ([add], {"stop": ["a"]}, r"stop strings \['a'\] could cut.*leave out stop"),
        ([add], {"tool_choice": "any", "max_tokens": 3}, "max_tokens is 3"),
        ([add], {"constraint": Constraint.regex("a")}, "two forms of one answer"),
        ([add], {"response_format": {"type": "yaml"}}, "response_format {'type': 'yaml'} is unk"),
        ([{**PAIR, "properties": {"a": {"uniqueItems": True}}}], {}, "uniqueItems"),
    ],
    ids=lambda value: None,  # the same in every process
)  # fmt: skip
def test_refusals_at_bind_time(chat: ChatW2S, tools: Any, options: Any, told: str) -> None:
    with pytest.raises((ConfigError, ConstraintError), match=f"(?s){told}"):
        chat.bind_tools(tools, **options)
    assert forwards(chat) == 0


def test_text_of_few_tokens_is_no_call(chat: ChatW2S) -> None:
    """Control: without a forced call so few tokens are enough."""
    message = chat.bind_tools([add], max_tokens=3).invoke(TALK)
    assert message.content
    assert not called(message)


def test_proposers_that_cannot(chat: ChatW2S) -> None:
    remote = ChatW2S(proposer=Remote(), strategy=Sampling())
    raw = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    untold = ChatW2S(proposer=raw, strategy=Sampling())
    with pytest.raises(ConfigError, match="Remote cannot keep its answers to a form"):
        remote.bind_tools([add])
    with pytest.raises(ConfigError, match="Remote cannot keep its answers to a form"):
        remote.with_structured_output(Weather)
    with pytest.raises(ConfigError, match="no chat template that could tell it of tools"):
        untold.bind_tools([add])
    profiles = [model.profile or {} for model in (chat, untold, remote)]
    assert [p["tool_calling"] for p in profiles] == [True, False, False]
    assert [p["structured_output"] for p in profiles] == [True, True, False]
    # Who reads no chat template is not shown the schema, and keeps to it all the same.
    assert isinstance(untold.with_structured_output(Dated, max_tokens=60).invoke(TALK), dict)


@pytest.mark.parametrize(
    ("schema", "options", "told"),
    [
        (Weather, {"method": "yaml"}, "unknown method 'yaml'; choose json_schema"),
        (Weather, {"stop": "a"}, "could cut an answer"),
        (Weather, {"max_tokens": 3}, "max_tokens is 3"),
        (Weather, {"temprature": 3}, "'temprature'.*did you mean 'temperature'"),
        (3, {}, "3 is no schema of an answer"),
        (None, {}, "None is no schema of an answer"),
        (None, {"method": "function_calling"}, "tool None cannot be described"),
        ({"properties": {"a": {"uniqueItems": True}}}, {}, "uniqueItems"),
        ({"type": "object"}, {"method": "function_calling"}, "'title'"),
    ],
    ids=lambda value: None,
)
def test_refusals_of_structured_output(chat: ChatW2S, schema: Any, options: Any, told: str) -> None:
    with pytest.raises((ConfigError, ConstraintError), match=f"(?s){told}"):
        chat.with_structured_output(schema, **options)
    assert forwards(chat) == 0


# Structured output.

METHODS: list[Any] = ["json_schema", "function_calling", "json_mode"]


@every_strategy
@pytest.mark.parametrize("method", METHODS)
def test_structured_output_parses(chat: ChatW2S, strategy: SearchStrategy, method: Any) -> None:
    chat = chat.model_copy(update={"strategy": strategy})
    for seed in range(2):
        weather, tree = (
            chat.with_structured_output(schema, method=method, seed=seed).invoke(TALK)
            for schema in (Weather, Tree)
        )
        assert isinstance(weather, Weather)
        assert isinstance(tree, Tree)
        dated, pair, choice = (
            chat.with_structured_output(schema, method=method, seed=seed).invoke(TALK)
            for schema in (Dated, PAIR, CHOICE)
        )
        assert set(dated) == {"day", "month"}
        jsonschema.validate(pair, PAIR)
        jsonschema.validate(choice, CHOICE)
    with pytest.raises(ValueError, match=r"Expecting|Invalid"):  # control
        json.loads(str(chat.invoke(TALK).content))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", [Weather, Dated, PAIR], ids=["pydantic", "typed", "dict"])
def test_include_raw(chat: ChatW2S, method: Any, schema: Any) -> None:
    both = chat.with_structured_output(schema, method=method, include_raw=True).invoke(TALK)
    assert set(both) == {"raw", "parsed", "parsing_error"}
    assert both["parsed"] == chat.with_structured_output(schema, method=method).invoke(TALK)
    assert both["parsing_error"] is None
    assert bool(both["raw"].tool_calls) == (method == "function_calling")


def test_an_error_of_parsing_is_kept(chat: ChatW2S) -> None:
    class Picky(BaseModel):
        a: Literal[1]

        def model_post_init(self, context: Any) -> None:
            raise ValueError("never")

    both = chat.with_structured_output(Picky, include_raw=True).invoke(TALK)
    assert both["parsed"] is None
    assert both["raw"].content == '{"a": 1}'
    assert "never" in str(both["parsing_error"])
    with pytest.raises(Exception, match="never"):
        chat.with_structured_output(Picky).invoke(TALK)


def test_only_json_schema_shows_the_schema(chat: ChatW2S) -> None:
    shown = {
        method: seen(chat, chat.with_structured_output(CHOICE, method=method).first)
        for method in METHODS
    }
    assert "JSON schema" in shown["json_schema"]
    assert "anyOf" in shown["json_schema"]
    assert "anyOf" in shown["function_calling"]
    assert "# Tools" in shown["function_calling"]
    assert shown["json_mode"] == seen(chat, chat.bind())
    assert isinstance(chat.with_structured_output(None, method="json_mode").invoke(TALK), dict)


def test_schemas_in_response_format(chat: ChatW2S) -> None:
    nameless = {key: value for key, value in PAIR.items() if key != "title"}
    form = {"type": "json_schema", "json_schema": {"name": "pair", "schema": nameless}}
    bound = chat.bind(response_format=form)
    message = bound.invoke(TALK)
    assert isinstance(message, AIMessage)
    jsonschema.validate(json.loads(str(message.content)), PAIR)
    assert streamed(bound).content == message.content
    assert chat.with_structured_output(nameless).invoke(TALK) == json.loads(str(message.content))
    assert chat.invoke(TALK, response_format={"type": "text"}).content == chat.invoke(TALK).content


def test_a_model_with_tools_of_its_own_gives_structured_output(chat: ChatW2S) -> None:
    """It would call its tools instead of answering."""
    fields = {name: getattr(chat, name) for name in ChatW2S.model_fields}
    own = ChatW2S(**{**fields, "tools": [add], "tool_choice": "add"})
    assert called(own.invoke(TALK))[0][0] == "add"
    for method in METHODS:
        assert isinstance(own.with_structured_output(Weather, method=method).invoke(TALK), Weather)


# Answers with a response_format where tools may be called, too.


def json_or_call(tools: Any, **options: Any) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "pair", "schema": PAIR}}
    return {"tools": tools, "response_format": form, **options}


def test_tools_and_a_response_format(chat: ChatW2S) -> None:
    kinds: set[bool] = set()
    for seed in range(8):
        options = json_or_call([add], seed=seed, temperature=4.0)
        message = chat.bind_tools(**options).invoke(TALK)
        kinds.add(bool(message.tool_calls))
        if message.tool_calls:
            assert (message.content, called(message)[0][0]) == ("", "add")
        else:
            jsonschema.validate(json.loads(str(message.content)), PAIR)
    assert kinds == {True, False}
    bound = chat.bind_tools(**json_or_call([add], tool_choice="any"))
    message = bound.invoke(TALK)
    assert called(message)[0][0] == "add"
    assert message.content == ""


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_the_mark_of_a_call_in_json_is_text(size: int) -> None:
    free = {"type": "object", "properties": {"a": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": free}}
    text = json.dumps({"a": f"Say {TWO} or <tool_call>"})
    for answer, content, expected in (
        (text, text, []), (TWO, "", [("add", {"a": 1, "b": 2}), ("now", {})]),
    ):  # fmt: skip
        bound = scripted(answer, size=size).bind_tools(
            [add, NOW], response_format=form, parallel_tool_calls=True
        )
        for message in (bound.invoke(TALK), streamed(bound)):
            assert (message.content, called(message)) == (content, expected)


def test_a_form_without_a_mark_is_for_forced_calls_only() -> None:
    bare = CallFormat(begin="", end="")
    text = '{"name": "now", "arguments": {}}'
    bound = scripted(text, form=bare).bind_tools([NOW], tool_choice="any")
    assert called(bound.invoke(TALK)) == called(streamed(bound)) == [("now", {})]
    for options in ({}, json_or_call([])):
        with pytest.raises(ConstraintError, match="cannot be told from text"):
            scripted(text, form=bare).bind_tools(**{**options, "tools": [NOW]})


# Streams.


@every_strategy
@pytest.mark.parametrize("choice", ["auto", "any", "none"])
def test_streamed_is_final(chat: ChatW2S, strategy: SearchStrategy, choice: str) -> None:
    bound = chat.bind_tools([add, Weather], tool_choice=choice, strategy=strategy)
    final, message = streamed(bound), bound.invoke(TALK)
    assert isinstance(message, AIMessage)
    assert final.content == message.content
    assert called(final) == called(message)
    assert bool(message.tool_calls) == (choice == "any")
    assert final.usage_metadata == message.usage_metadata
    assert final.response_metadata == message.response_metadata
    assert all(call["id"] for call in final.tool_calls)


PIECES = st.sampled_from(
    ["<", "<tool", "<tool_call>", "</tool_call>", "\n", " ", "{", '{"a": "', "Hi", "ä", "}", '"'],
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def read(reader: Any, pieces: Sequence[str]) -> tuple[str, list[tuple[str, Any]]]:
    said = "".join(reader.text(piece) for piece in pieces)
    rest, calls = reader.rest()
    return said + rest, [(call["name"], call["args"]) for call in calls]


class Hasty(CallReader):
    """Holds back nothing that may turn out to begin a call."""

    def text(self, new: str) -> str:
        return super().text(new) + self._let_go()

    def _let_go(self) -> str:
        if self._form.mark in self._held:
            return ""
        held, self._held = self._held, ""
        return held


ARGUMENTS = {"x": '</tool_call> {"<tool_call>'}
CALLED = f'<tool_call>\n{{"name": "f", "arguments": {json.dumps(ARGUMENTS)}}}\n</tool_call>'


@settings(max_examples=400, deadline=None)
@given(
    text=TEXTS, calls=st.integers(0, 2), places=st.lists(st.integers(0, 120), max_size=8),
    or_json=st.booleans(),
)  # fmt: skip
@example(text="a <tool", calls=1, places=[3, 9], or_json=False)
def test_cuts_change_nothing(text: str, calls: int, places: list[int], or_json: bool) -> None:
    text = text.replace("<tool_call>", "<tool call>")
    if or_json:
        text = "" if calls else f'{{"{text}'
    whole = text + "\n".join([CALLED] * calls)
    expected = (text.rstrip() if calls else text, [("f", ARGUMENTS)] * calls)
    pieces = cut(whole, places)
    assert read(CallReader(DEFAULT_CALLS, or_json), pieces) == expected
    assert read(CallReader(DEFAULT_CALLS, or_json), [whole]) == expected
    message, found = read_whole(CallReader(DEFAULT_CALLS, or_json), whole)
    assert (message, len(found)) == (expected[0], calls)


def test_a_hasty_reader_is_caught() -> None:
    """Control: who does not hold back the beginning of a mark gives it away as text."""
    pieces = ["Well <tool", '_call>\n{"name": "f", "arguments": {}}\n</tool_call>']
    assert read(CallReader(DEFAULT_CALLS), pieces) == ("Well", [("f", {})])
    assert read(Hasty(DEFAULT_CALLS), pieces) == ("".join(pieces), [])


def test_nothing_is_held_back_longer_than_it_must_be() -> None:
    reader = CallReader(DEFAULT_CALLS)
    assert [reader.text(piece) for piece in ("a b <", "b", " <tool_", "x ", "y")] == [
        "a b", " <b", "", " <tool_x", " y",
    ]  # fmt: skip


# One call, or many; cached, configured, asynchronous.


async def test_all_ways_to_call_agree(chat: ChatW2S) -> None:
    for bound in (
        chat.bind_tools([add, Weather], tool_choice="any"),
        chat.bind(response_format={"type": "json_object", "schema": schema_of(Weather)}),
    ):
        message: Any = bound.invoke(TALK)
        expected = (message.content, called(message))
        batch = bound.batch([TALK, "else", TALK])
        chunks = [chunk async for chunk in bound.astream(TALK)]
        whole: Any = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        for other in (
            batch[0], batch[2], (await bound.abatch([TALK, "x"]))[0], await bound.ainvoke(TALK),
            message_chunk_to_message(whole),
        ):  # fmt: skip
            assert (other.content, called(other)) == expected
        assert (batch[1].content, called(batch[1])) != expected, "control"
        alone: Any = bound.invoke("else")
        assert (batch[1].content, called(batch[1])) == (alone.content, called(alone))


def test_tools_are_part_of_the_cache_key(chat: ChatW2S) -> None:
    cache = InMemoryCache()
    chat = chat.model_copy(update={"strategy": Sampling(), "max_tokens": 90})
    cached = chat.model_copy(update={"cache": cache})
    other = copy.deepcopy(tool_dicts([add])[0])
    other["function"]["description"] = "Adds."
    form = {"type": "json_schema", "json_schema": {"name": "pair", "schema": PAIR}}
    changes: list[dict[str, Any]] = [
        {}, {"tools": [add]}, {"tools": [other]}, {"tools": [add, NOW]}, {"tools": [NOW, add]},
        {"tools": [add], "tool_choice": "any"}, {"tools": [add], "tool_choice": "none"},
        {"tools": [add], "tool_choice": "any", "parallel_tool_calls": True},
        {"response_format": form}, {"response_format": {"type": "json_object", "schema": PAIR}},
        {"tools": [add], "response_format": form},
    ]  # fmt: skip
    for count, changed in enumerate(changes, 1):
        message, fresh = cached.invoke(TALK, **changed), chat.invoke(TALK, **changed)
        assert (message.content, called(message)) == (fresh.content, called(fresh))
        assert len(cache._cache) == count, changed
    before = forwards(chat)
    for same in (
        cached.bind_tools([add]), cached.bind_tools([add, add]),
        cached.bind_tools(tool_dicts([add])),
        cached.bind_tools([add], tool_choice="required"), cached.with_structured_output(PAIR),
    ):  # fmt: skip
        same.invoke(TALK)
    assert forwards(chat) == before, "all of them are hits"
    cached.bind_tools([add], tool_choice="add").invoke(TALK)
    assert forwards(chat) > before, "control"


def test_bind_tools_among_other_wrappers(chat: ChatW2S) -> None:
    expected = called(chat.bind_tools([add], tool_choice="any", temperature=0.1).invoke(TALK))
    tags: list[list[str]] = []

    class Tags(BaseCallbackHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            tags.append(kwargs["tags"])

    after = chat.bind_tools([add], tool_choice="any").with_config(tags=["t"]).bind(temperature=0.1)
    before: Any = chat.with_config(tags=["t"])
    before = before.bind_tools([add], tool_choice="any", temperature=0.1)
    for bound in (after, before):
        assert called(bound.invoke(TALK, {"callbacks": [Tags()]})) == expected
    assert tags[0] == ["t"]
    fallback = chat.bind_tools([add], tool_choice="any", temperature=0.1).with_fallbacks([chat])
    assert called(fallback.invoke(TALK)) == expected
    again = chat.bind_tools([NOW]).bind(**chat.bind_tools([add], tool_choice="any").kwargs)
    assert called(again.invoke(TALK, temperature=0.1)) == expected


# Templates that know tools.

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
    bound = chat.bind_tools([add], tool_choice="any")
    [(name, args)] = called(bound.invoke(HISTORY))
    assert name == "add"
    assert set(args) == {"a", "b"}
    assert called(streamed(bound, HISTORY)) == [(name, args)]
    [job] = chat._overridden(None, bound.kwargs).jobs([chat._prompt(HISTORY)])
    assert job.constraint == tool_call(
        {"add": schema_of(add)}, form=proposer.call_format
    )  # what the model writes is what its template writes
    text = proposer.text
    prompt = text.tokenizer.decode(
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


# The form of an answer that is a call or JSON.


@pytest.mark.parametrize("form", [DEFAULT_CALLS, LLAMA], ids=["default", "llama"])
@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_call_or_json_parses(form: CallFormat, model: str) -> None:
    grammar = grammars().compile(tool_call_or_json(TOOLS, PERSON, form=form))
    kinds: set[str] = set()
    for seed in range(12):
        ids, state = walk(grammar, grammar.shortest + 5 * seed, MODELS[model](grammar, seed))
        assert state.ended
        text = decode(grammar, ids)
        if text.startswith(form.begin):
            [(name, arguments)] = calls(text, form)
            jsonschema.validate(arguments, TOOLS[name])
            kinds.add("call")
        else:
            jsonschema.validate(json.loads(text), PERSON)
            kinds.add("json")
    assert kinds, model


def test_a_call_or_json_and_nothing_else() -> None:
    grammar = grammars().compile(tool_call_or_json(TOOLS, PERSON))
    call = '<tool_call>\n{"name": "weather_now", "arguments": {}}\n</tool_call>'
    person = json.dumps({"name": call, "größe": "🙂", "tags": []}, ensure_ascii=False)
    for text in (call, person):
        assert accepts(grammar, text), text
    for text in (f"{call}\n{call}", person + call, call + person, "Hi", "", person[:-1], "{}"):
        assert not accepts(grammar, text), text
    several = grammars().compile(tool_call_or_json(TOOLS, PERSON, parallel=True))
    assert accepts(several, f"{call}\n{call}")
    assert not accepts(several, f"{call}\n{person}")
    with pytest.raises(ConstraintError, match="no tool"):
        tool_call_or_json({}, PERSON)
    with pytest.raises(ConstraintError, match="cannot be told from text"):
        tool_call_or_json(TOOLS, PERSON, form=CallFormat(begin=" "))
    with pytest.raises(ConstraintError, match="uniqueItems"):
        check_constraint(tool_call_or_json(TOOLS, {"properties": {"a": {"uniqueItems": True}}}))
    assert tool_call_or_json(TOOLS, PERSON) != text_or_tool_call(TOOLS)


# Agents.


def forced(*choices: Any) -> Any:
    """The tool choice of the first calls of a model; "none" from then on."""
    left = list(choices)

    @wrap_model_call
    def force(request: ModelRequest, handler: Any) -> Any:
        return handler(request.override(tool_choice=left.pop(0) if left else "none"))

    return force


def test_an_agent_loop_ends(chat: ChatW2S) -> None:
    agent = create_agent(chat, [add, shout], middleware=[forced("add", "shout")])
    messages = agent.invoke({"messages": TALK})["messages"]
    kinds = [type(message).__name__ for message in messages[2:]]
    assert kinds == ["AIMessage", "ToolMessage", "AIMessage", "ToolMessage", "AIMessage"]
    [(name, args)] = called(messages[2])
    assert name == "add"
    assert messages[3].content == str(args["a"] + args["b"])
    [(name, args)] = called(messages[4])
    assert messages[5].content == args["text"].upper()
    assert messages[6].content
    # Each result was shown to the model.
    read = chat.proposer.text
    last = read.tokenizer.decode(read.prompt_ids(chat._prompt(messages[:-1])))
    assert f"<tool_response>\n{messages[3].content}\n</tool_response>" in last


async def test_an_agent_as_a_stream(chat: ChatW2S) -> None:
    agent = create_agent(chat, [add], middleware=[_aforced("add")])
    whole: Any = None
    async for chunk, _ in agent.astream({"messages": TALK}, stream_mode="messages"):
        if isinstance(chunk, AIMessageChunk) and chunk.tool_call_chunks:
            whole = chunk
    assert called(message_chunk_to_message(whole))[0][0] == "add"


def _aforced(choice: str) -> Any:
    left = [choice]

    @wrap_model_call
    async def force(request: ModelRequest, handler: Any) -> Any:
        return await handler(request.override(tool_choice=left.pop() if left else "none"))

    return force


@pytest.mark.parametrize("tools", [[], [add]], ids=["no tools", "tools"])
@pytest.mark.parametrize("wanted", [Weather, ProviderStrategy(Weather), ToolStrategy(Weather)])
def test_an_agent_with_a_response_format(chat: ChatW2S, tools: Any, wanted: Any) -> None:
    agent = create_agent(chat, tools, response_format=wanted)
    for seed in range(2):
        chat.seed = seed
        try:
            answer = agent.invoke({"messages": TALK}, {"recursion_limit": 8})
        except GraphRecursionError:  # a random model called its tool again and again
            assert isinstance(wanted, ToolStrategy)
            assert tools
            continue
        assert isinstance(answer["structured_response"], Weather)


# The embedded model.


@pytest.fixture(scope="module")
def smollm() -> ChatW2S:
    return ChatW2S.from_pretrained(
        "embedded:smollm2-135m-instruct",
        tuned="embedded:reviews-tuned",
        untuned="embedded:reviews-untuned",
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=8),
        temperature=0.0,
        max_tokens=80,
        seed=0,
    )


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.mark.parametrize("method", METHODS)
@every_strategy
def test_smollm_structured(smollm: ChatW2S, method: Any, strategy: SearchStrategy) -> None:
    if isinstance(strategy, EmulatedFineTuning):
        strategy = ChunkBeamSearch(width=1, successors=2, chunk_tokens=None)  # other vocabularies
    model = smollm.with_structured_output(Person, method=method, strategy=strategy)
    question = "Zoë is 29 years old. Who is it? Answer in JSON with name and age."
    person = model.invoke(question)
    assert isinstance(person, Person)
    if isinstance(strategy, Sampling):
        assert (person.name, person.age) == ("Zoë", 29)


def test_smollm_calls_the_tool_it_has_to(smollm: ChatW2S) -> None:
    bound = smollm.bind_tools([add, shout], tool_choice="add", strategy=Sampling())
    message = bound.invoke("What is 3 + 4?")
    assert called(message) == [("add", {"a": 3, "b": 4})]
    assert called(streamed(bound, "What is 3 + 4?")) == called(message)
    free = smollm.bind_tools([add, shout]).invoke("Tell me a joke.")
    assert free.content or free.tool_calls
