"""Chat templates of well-known families: each conversation is rendered right, or refused clearly.

Right means: every message once and in order, the documented text, one start token, and at the end
the opening of the assistant's turn.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.helpers.chat_pieces import Family
from tests.helpers.more_chat_templates import FAMILIES
from w2s_chains import Message, Prompt, Tool, ToolCall
from w2s_chains.backend.chat.chat_template import ChatTemplate
from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.errors import ConfigError, PromptError


def turns(*contents: str, first: str = "user") -> tuple[Message, ...]:
    """Contents of speakers who take turns."""
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return tuple(Message(role=roles[i % 2], content=one) for i, one in enumerate(contents))


SYSTEM = Message(role="system", content="Be brief.")
TALK = ("Who wrote Faust?", "Goethe.", "When?", "In 1808.", "Where?")
TOOL = Tool(
    name="rain",
    description="Tells how much it rains.",
    parameters='{"type": "object", "properties": {"town": {"type": "string"}}}',
)
CALL = ToolCall(name="rain", arguments='{"town": "Ålesund"}', id="call00001")
OTHER = ToolCall(name="rain", arguments='{"town": "Tromsø"}', id="call00002")
CONVERSATIONS = {
    "question": turns(*TALK[:1]),
    "system": (SYSTEM, *turns(*TALK[:1])),
    "three": turns(*TALK[:3]),
    "talk": (SYSTEM, *turns(*TALK)),
    "repeats": (
        *turns("Who wrote Faust?"), *turns("I mean the play.", "Goethe."),
        *turns("In 1808.", "Where?", first="assistant"),
    ),
    "late": (*turns(*TALK[:2]), SYSTEM, *turns(*TALK[2:3])),
    "tools": (
        *turns("Do I need a coat?"),
        Message(role="assistant", content="", tool_calls=(CALL,)),
        Message(role="tool", content="18 mm", tool_call_id="call00001", name="rain"),
        *turns("And tomorrow?"),
    ),
    "calls": (
        SYSTEM, *turns("Do I need a coat?"),
        Message(role="assistant", content="Let me look.", tool_calls=(CALL, OTHER)),
        Message(role="tool", content="18 mm", tool_call_id="call00001", name="rain"),
        Message(role="tool", content="3 mm", tool_call_id="call00002", name="rain"),
        *turns("Yes, take it.", "And tomorrow?", first="assistant"),
    ),
}  # fmt: skip
ALTERNATES = {
    "Llama 2", "Mistral v1", "Mistral v3", "Mistral Small", "Gemma 2", "Gemma 3", "Vicuna",
    "Command-R",
}  # fmt: skip
each_family = pytest.mark.parametrize("name", FAMILIES, scope="module")  # ordered by family
OPENS_NO_TURN = {"Llama 2", "Mistral v1", "Mistral v3", "Mistral Small"}


def changed(name: str, old: str, new: str) -> PreTrainedTokenizerFast:
    """A family's tokenizer with another template."""
    one = FAMILIES[name].tokenizer(name)
    assert isinstance(one.chat_template, str)
    assert old in one.chat_template
    one.chat_template = one.chat_template.replace(old, new)
    return one


@functools.cache
def wrapped(name: str) -> Tokenizer:
    return Tokenizer(FAMILIES[name].tokenizer(name), PromptTemplate(chat=True), [])


def chat(tokenizer: Tokenizer) -> ChatTemplate:
    assert tokenizer.chat is not None
    return tokenizer.chat


def asked(conversation: str) -> Prompt:
    tools = (TOOL,) if conversation in ("tools", "calls") else ()
    return Prompt(messages=CONVERSATIONS[conversation], tools=tools)


def read(tokenizer: Tokenizer, prompt: Prompt) -> str:
    """The text that the model reads, control tokens included."""
    tokenizer.check_fits(prompt, 1, None, "guide")
    text = tokenizer.hf_tokenizer.decode(tokenizer.prompt_ids(prompt))
    assert text == chat(tokenizer).render(prompt.messages, prompt.tools)
    return text


def faults(text: str, messages: tuple[Message, ...], moves_system: bool = False) -> list[str]:
    """Messages that a text does not have once, or not in their order."""
    said: list[str] = []
    for message in messages:
        said += [message.content] if message.content else []
        said += [json.loads(call.arguments)["town"] for call in message.tool_calls]
    found = [f"{text.count(part)} times {part!r}" for part in said if text.count(part) != 1]
    if moves_system:
        said = [part for part in said if part != SYSTEM.content]
    ordered = sorted(said, key=text.find)
    return [*found, *(f"early: {a!r}" for a, b in zip(ordered, said, strict=True) if a != b)]


def bos_faults(ids: tuple[int, ...], family: Family, tokenizer: Any) -> list[str]:
    """What is wrong with the start tokens of a prompt."""
    if family.bos is None:
        return []
    bos = tokenizer.bos_token_id
    places = [at for at, token in enumerate(ids) if token == bos]
    doubled = [f"doubled at {at}" for at in places if at + 1 in places]
    return doubled + [f"inside at {at}" for at in places if at and family.one_bos]


NEEDS_SYSTEM = r"^the chat template of 'system first' refuses .*give a system message, or set sys"


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@each_family
def test_a_conversation_is_rendered_right_or_refused(name: str, conversation: str) -> None:
    family, own, prompt = FAMILIES[name], wrapped(name), asked(conversation)
    if name == "system first" and conversation in ("question", "three", "repeats", "late"):
        with pytest.raises(PromptError, match=NEEDS_SYSTEM):
            own.prompt_ids(prompt)
        return
    text = read(own, prompt)
    assert faults(text, prompt.messages, family.moves_system) == []
    assert bos_faults(own.prompt_ids(prompt), family, own.hf_tokenizer) == []
    assert text.endswith(family.opening)
    assert text.count(TOOL.description) == len(prompt.tools)
    if conversation == "question":
        assert text == family.question
    if conversation == "talk":
        assert text == family.talk


@each_family
def test_the_end_of_turn_is_the_familys(name: str) -> None:
    own, family = wrapped(name), FAMILIES[name]
    assert own.end_id == own.hf_tokenizer.convert_tokens_to_ids(family.end)
    assert {own.end_id, own.hf_tokenizer.eos_token_id} == {*own.end_ids}


def test_another_end_of_turn_is_seen() -> None:
    """Control: the end of turn is read from the template."""
    other = changed("Llama 3", "<|eot_id|>", "<|eom_id|>")
    found = Tokenizer(other, PromptTemplate(chat=True), []).end_id
    assert found == other.convert_tokens_to_ids("<|eom_id|>") != wrapped("Llama 3").end_id


@each_family
def test_a_server_that_adds_the_start_token_reads_the_same(name: str) -> None:
    own, prompt = wrapped(name), asked("talk")
    read_there = own.hf_tokenizer(own.rendered(prompt))["input_ids"]
    # Zephyr's template writes no start token, and no text keeps a server from adding it.
    added = [own.hf_tokenizer.bos_token_id] if name == "Zephyr" else []
    assert read_there == [*added, *own.prompt_ids(prompt)]


@each_family
def test_control_tokens_in_messages_are_only_text(name: str) -> None:
    own, family = wrapped(name), FAMILIES[name]
    control = {*own.hf_tokenizer.added_tokens_decoder}
    evil = f"x {family.end}{family.bos or ''}{''.join(family.special)} y"
    clean, poisoned = (
        own.prompt_ids(Prompt(messages=(SYSTEM, *turns(text, text, text)))) for text in ("x", evil)
    )
    assert [i for i in poisoned if i in control] == [i for i in clean if i in control]
    assert own.hf_tokenizer.decode(poisoned).count(evil) == 3, "control: the texts are there"


def test_a_doubled_start_token_is_seen() -> None:
    """Control: reading the rendered text as raw text puts a second start token before it."""
    doubled: list[str] = []
    for name, family in FAMILIES.items():
        own = wrapped(name)
        text = read(own, asked("talk"))
        ids = tuple(own.hf_tokenizer(text)["input_ids"])
        doubled += [name] * (bos_faults(ids, family, own.hf_tokenizer) != [])
    assert doubled == [
        "Llama 2", "Llama 3", "Llama 3.1", "Mistral v1", "Mistral v3", "Mistral Small", "Gemma 2",
        "Gemma 3", "Vicuna", "Command-R", "DeepSeek V3", "DeepSeek R1",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in OPENS_NO_TURN])
def test_without_the_opening_the_text_ends_otherwise(name: str) -> None:
    """Control: what ``opening`` says is written only to ask for an answer."""
    own = wrapped(name).hf_tokenizer
    turn = [{"type": "text", "text": "hi"}] if name == "SmolVLM" else "hi"
    talk = [{"role": role, "content": turn} for role in ("system", "user")]
    talk = talk[1:] if name == "Gemma 2" else talk
    assert not own.apply_chat_template(talk, tokenize=False).endswith(FAMILIES[name].opening)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        ("{% set messages = messages[1:] %}", "0 times"),
        ("{% set messages = messages[:2] + messages[1:] %}", "2 times"),
        ("{% set messages = messages[2:] + messages[:2] %}", "early"),
    ],
)
def test_lost_repeated_and_moved_turns_are_seen(spoil: str, fault: str) -> None:
    """Control: ``faults`` sees what a spoiled template does."""
    own = changed("Llama 3", "{{ bos_token }}", "{{ bos_token }}" + spoil)
    talk = [{"role": m.role, "content": m.content} for m in CONVERSATIONS["three"]]
    text = own.apply_chat_template(talk, tokenize=False)
    assert isinstance(text, str)
    assert fault in str(faults(text, CONVERSATIONS["three"]))


@pytest.mark.parametrize(
    ("role", "lost"), [("user", "Who wrote Faust"), ("assistant", "In 1808"), ("system", "Be bri")]
)
def test_a_turn_that_the_template_leaves_out_is_refused(role: str, lost: str) -> None:
    # Not the first question or answer alone, which short probe conversations have too.
    keeps = "{% for m in messages if not (loop.length > 4 and LOST in m.content) %}"
    template = keeps.replace("LOST", repr(lost)).replace("loop.length", "messages | length")
    spoiled = changed("Llama 3", "{% for m in messages %}", template)
    own = Tokenizer(spoiled, PromptTemplate(chat=True), [])
    with pytest.raises(PromptError, match=rf"leaves out the {role}'s '{lost}.*set chat to false"):
        own.prompt_ids(asked("talk"))
    assert read(own, asked("three"))


@each_family
def test_a_conversation_that_the_assistant_begins(name: str) -> None:
    own, prompt = wrapped(name), Prompt(messages=turns("Good day!", "Hello.", first="assistant"))
    if name in ALTERNATES:
        with pytest.raises(PromptError, match=r"\(assistant, user\).*change the messages, or set"):
            own.prompt_ids(prompt)
    elif name == "system first":
        with pytest.raises(PromptError, match=NEEDS_SYSTEM):
            own.prompt_ids(prompt)
    else:
        text = read(own, prompt)
        assert faults(text, prompt.messages) == []
        assert text.endswith(FAMILIES[name].opening)


@each_family
def test_a_conversation_that_the_assistant_ends(name: str) -> None:
    own, prompt = wrapped(name), Prompt(messages=(SYSTEM, *turns("Hi, who?", "Goethe.")))
    if name in OPENS_NO_TURN:
        with pytest.raises(PromptError, match=r"user, assistant\).*end with a user's message, or"):
            own.check_fits(prompt, 1, None, "guide")
    else:
        text = read(own, prompt)
        assert faults(text, prompt.messages) == []
        assert text.endswith(FAMILIES[name].opening)


def test_calls_in_the_templates_own_words_and_written_out() -> None:
    """Qwen's calls can be followed by a grammar; others' cannot, and are written out alike."""
    call = '<tool_call>\n{"name": "rain", "arguments": {"town": "Ålesund"}}\n</tool_call>'
    for name in FAMILIES:
        text = read(wrapped(name), asked("tools"))
        assert call in text
        assert "<tool_response>\n18 mm\n</tool_response>" in text
        marks = ("[TOOL", "[AVAILABLE", "ipython", "available_tools", "tool▁", "<results>")
        assert not any(mark in text for mark in marks), name
        assert ("# Tools\n\nFunctions" in text) == (name in ("Qwen2.5", "Qwen3"))


THOUGHT = "<think>\nAn easy one.\n</think>\n\n"


@pytest.mark.parametrize("name", ["DeepSeek R1", "Qwen3", "Llama 3"])
def test_earlier_thoughts_are_left_out_where_the_template_does(name: str) -> None:
    said = (TALK[0], THOUGHT + TALK[1], *TALK[2:])
    prompt = Prompt(messages=turns(*said))
    text = read(wrapped(name), prompt)
    assert faults(text, turns(*TALK)) == []
    assert ("An easy one." in text) == (name == "Llama 3")  # control: others keep them
    assert text.endswith(FAMILIES[name].opening)


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("Qwen3", {"enable_thinking": False}, "assistant\n<think>\n\n</think>\n\n"),
        ("Qwen3", {"enable_thinking": True}, "<|im_start|>assistant\n"),
        ("Llama 3.1", {"date_string": "1 May 2026"}, "Date: 1 May 2026\n"),
    ],
)
def test_variables_reach_the_template(name: str, given: dict[str, Any], text: str) -> None:
    template = PromptTemplate(chat=True, chat_template_kwargs=given)
    own = Tokenizer(FAMILIES[name].tokenizer(name), template, [])
    found = read(own, asked("question"))
    assert text in found
    assert (found == FAMILIES[name].question) == (given == {"enable_thinking": True})
    assert own.end_id == wrapped(name).end_id


@pytest.mark.parametrize(("name", "near"), [("Qwen3", "enable_thinking"), ("Llama 3", "leave")])
def test_a_variable_that_the_template_lacks_is_refused(name: str, near: str) -> None:
    template = PromptTemplate(chat=True, chat_template_kwargs={"enable_thinkin": False})
    with pytest.raises(ConfigError, match=rf"chat template of '{name}'.*'enable_thinkin'.*{near}"):
        Tokenizer(FAMILIES[name].tokenizer(name), template, [])


@pytest.mark.parametrize("conversation", ["question", "repeats"])
def test_a_set_system_message_is_what_the_template_demands(conversation: str) -> None:
    template = PromptTemplate(chat=True, system=SYSTEM.content)
    own = Tokenizer(FAMILIES["system first"].tokenizer("demanding"), template, [])
    text = own.hf_tokenizer.decode(own.prompt_ids(asked(conversation)))
    assert faults(text, (SYSTEM, *CONVERSATIONS[conversation])) == []


@pytest.mark.parametrize("kept", ["messages[:2]", "messages[1:]", "messages[::2]"])
def test_one_of_equal_turns_that_is_left_out_is_seen(kept: str) -> None:
    spoil = f"{{% if messages | length > 4 %}}{{% set messages = {kept} %}}{{% endif %}}"
    spoiled = changed("Llama 3", "{{ bos_token }}", "{{ bos_token }}" + spoil)
    own = Tokenizer(spoiled, PromptTemplate(chat=True), [])
    with pytest.raises(PromptError, match=r"leaves out the (user|assistant)'s 'Hi'"):
        own.prompt_ids(Prompt(messages=turns("Hi", "Hi", "Hi", "Hi", "Hi")))
    assert read(own, Prompt(messages=turns("Hi", "Hi", "Hi"))).count("Hi") == 3  # control


@pytest.mark.parametrize("name", ["m", "role", "head", "loop"])
def test_a_name_that_the_template_sets_itself_is_no_variable(name: str) -> None:
    template = PromptTemplate(chat=True, chat_template_kwargs={name: "x"})
    with pytest.raises(ConfigError, match=f"does not read '{name}'"):
        Tokenizer(FAMILIES["Llama 3"].tokenizer("Llama 3"), template, [])


@each_family
def test_a_system_message_alone_gets_an_answer_or_is_refused(name: str) -> None:
    own, prompt = wrapped(name), Prompt(messages=(SYSTEM,))
    if name in ("Llama 2", "Mistral v3", "Mistral Small", "Gemma 3"):
        with pytest.raises(PromptError, match=r"\(system\).*set chat to false"):
            own.check_fits(prompt, 1, None, "guide")
    else:
        text = read(own, prompt)
        assert faults(text, prompt.messages) == []
        assert text.endswith(FAMILIES[name].opening)
