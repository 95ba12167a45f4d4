"""``Family``: a chat template and what it shall write; pieces that several templates share."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family's chat template, and what it is documented to write.

    ``question`` and ``talk`` are the exact texts of the conversations of these names in
    ``tests/backend/chat/test_families.py``.
    """

    template: str | dict[str, str]
    bos: str | None
    eos: str
    end: str
    """The token that ends the assistant's turn."""
    opening: str
    """What the assistant's answer is appended to."""
    question: str
    talk: str
    special: tuple[str, ...] = ()
    """More control tokens."""
    adds_bos: bool = True
    """Whether the tokenizer puts the start token before a raw text."""
    one_bos: bool = True
    """Whether the start token has no other meaning: some families begin or end turns with it."""
    moves_system: bool = False
    """Whether system messages are put elsewhere: into the last user turn, or at the beginning."""

    def tokenizer(self, name: str) -> PreTrainedTokenizerFast:
        """Bytes and control tokens; the start token goes before raw texts, as Llama has it."""
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        control = [self.bos, self.eos, self.end, *self.special]
        inner.add_special_tokens([*dict.fromkeys(token for token in control if token)])
        if self.bos and self.adds_bos:
            inner.post_processor = processors.TemplateProcessing(
                single=f"{self.bos} $A",
                special_tokens=[(self.bos, inner.token_to_id(self.bos))],
            )
        return PreTrainedTokenizerFast(
            tokenizer_object=inner,
            bos_token=self.bos,
            eos_token=self.eos,
            chat_template=self.template,
            name_or_path=name,
        )


def jinja(*pieces: str) -> str:
    """Join a template's lines: only what is in quotes is written, no indentation, no line ends."""
    return "".join(line.strip() for piece in pieces for line in piece.splitlines())


SPLIT = """
    {% set given = messages[0].role == 'system' %}
    {% set system = messages[0].content if given else '' %}
    {% set turns = messages[1:] if given else messages %}
"""
"""Set ``system`` and ``turns``."""

ALTERNATE = """
    {% for m in turns %}
    {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% endfor %}
"""
"""Refuse ``turns`` that do not alternate, or that an assistant begins."""


def asks(turns: str) -> str:
    """Set ``asked.at``, the place of the last user's turn."""
    return (
        "{% set asked = namespace(at=-1) %}{% for m in " + turns + " %}"
        "{% if m.role == 'user' %}{% set asked.at = loop.index0 %}{% endif %}{% endfor %}"
    )


TOOLS_IN_CHATML = """
    {% if tools %}
    {{ '\\n\\n# Tools\\n\\nFunctions you may call:\\n<tools>' }}
    {% for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}
    {{ '\\n</tools>\\n\\nCall one by:\\n<tool_call>\\n' }}
    {{ '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' }}
    {% endif %}
"""
"""The end of the system message of Qwen models."""

CALLS_IN_CHATML = (
    asks("turns")
    + """
    {% for m in turns %}
    {% if m.role == 'tool' %}
    {% if loop.previtem is not defined or loop.previtem.role != 'tool' %}
    {{ '<|im_start|>user' }}{% endif %}
    {{ '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
    {% if loop.nextitem is not defined or loop.nextitem.role != 'tool' %}
    {{ '<|im_end|>\\n' }}{% endif %}
    {% else %}
    {% set said = m.content %}
    {% if thinks is defined and m.role == 'assistant' and '</think>' in said %}
    {% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
    {% set said = said.split('</think>')[-1].lstrip('\\n') %}
    {% if loop.index0 > asked.at %}
    {% set said = '<think>\\n' + thought + '\\n</think>\\n\\n' + said %}{% endif %}
    {% endif %}
    {{ '<|im_start|>' + m.role + ('\\n' + said if said or not m.tool_calls else '') }}
    {% for call in m.tool_calls or [] %}
    {{ '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
    {{ call.function.arguments | tojson + '}\\n</tool_call>' }}
    {% endfor %}
    {{ '<|im_end|>\\n' }}
    {% endif %}
    {% endfor %}
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
)
"""The turns of Qwen models; thoughts before the last question are left out if ``thinks``."""

NINE = """
    {% set counted = namespace(n=0) %}
    {% for m in turns if m.role != 'tool' and not m.tool_calls %}
    {% if (m.role == 'user') != (counted.n % 2 == 0) %}
    {{ raise_exception('After the system message, roles must alternate user/assistant.') }}
    {% endif %}
    {% set counted.n = counted.n + 1 %}
    {% endfor %}
    {% macro calls(m) %}
    {{ '[TOOL_CALLS]' + blank + '[' }}
    {% for call in m.tool_calls %}
    {% if call.id is not defined or call.id | length != 9 %}
    {{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
    {{ '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
    {{ ', "id": "' + call.id + '"}' + ('' if loop.last else ', ') }}
    {% endfor %}
    {{ ']' + eos_token }}
    {% endmacro %}
    {% macro result(m) %}
    {% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}
    {{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
    {{ '[TOOL_RESULTS]' + blank + '{"content": ' + m.content | tojson + ', "call_id": "' }}
    {{ m.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {% endmacro %}
"""
"""Refuse what does not alternate, and write calls and results, as Mistral's models have it."""
