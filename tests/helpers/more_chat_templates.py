"""Chat templates of more families, and ``FAMILIES``: all of them by name.

Written anew from the documented prompt formats, as those in ``chat_templates``.
"""

from __future__ import annotations

from dataclasses import replace

from tests.helpers import chat_templates as first
from tests.helpers.chat_pieces import ALTERNATE, SPLIT, Family, jinja

_VICUNA = "A chat between a curious user and an artificial intelligence assistant."
_GRANITE = "You are Granite, developed by IBM."

_GEMMA_TURNS = """
    {% for m in turns %}
    {{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}
    {% if loop.first and system %}{{ system + '\\n\\n' }}{% endif %}
    {% if m.content is string %}{{ m.content | trim }}
    {% else %}
    {% for part in m.content %}
    {% if part.type == 'image' %}{{ '<start_of_image>' }}{% else %}{{ part.text | trim }}{% endif %}
    {% endfor %}
    {% endif %}
    {{ '<end_of_turn>\\n' }}
    {% endfor %}
    {% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
_GEMMA_QUESTION = "<bos><start_of_turn>user\nWho wrote Faust?<end_of_turn>\n<start_of_turn>model\n"
_GEMMA_TALK = (
    "<bos><start_of_turn>user\nBe brief.\n\nWho wrote Faust?<end_of_turn>\n"
    "<start_of_turn>model\nGoethe.<end_of_turn>\n<start_of_turn>user\nWhen?<end_of_turn>\n"
    "<start_of_turn>model\nIn 1808.<end_of_turn>\n<start_of_turn>user\nWhere?<end_of_turn>\n"
    "<start_of_turn>model\n"
)

GEMMA2 = Family(
    template=jinja(
        "{{ bos_token }}{% set turns = messages %}{% set system = '' %}",
        "{% if messages[0].role == 'system' %}",
        "{{ raise_exception('System role not supported') }}{% endif %}",
        ALTERNATE, _GEMMA_TURNS,
    ),
    bos="<bos>", eos="<eos>", end="<end_of_turn>", special=("<start_of_turn>", "<end_of_turn>"),
    opening="<start_of_turn>model\n", question=_GEMMA_QUESTION, talk=_GEMMA_TALK,
)  # fmt: skip

GEMMA3 = Family(
    template=jinja(
        "{{ bos_token }}", SPLIT,
        "{% if system and system is not string %}{% set system = system[0].text %}{% endif %}",
        ALTERNATE, _GEMMA_TURNS,
    ),
    bos="<bos>", eos="<eos>", end="<end_of_turn>",
    special=("<start_of_turn>", "<end_of_turn>", "<start_of_image>"),
    opening="<start_of_turn>model\n", question=_GEMMA_QUESTION, talk=_GEMMA_TALK,
)  # fmt: skip

PHI3 = Family(  # another role is left out without a word
    template=jinja(
        """
        {% for m in messages if m.role in ['system', 'user', 'assistant'] %}
        {{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}
        {% endfor %}
        {{ '<|assistant|>\\n' if add_generation_prompt else eos_token }}
        """
    ),
    bos="<s>", eos="<|endoftext|>", end="<|end|>", adds_bos=False,
    special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    opening="<|assistant|>\n",
    question="<|user|>\nWho wrote Faust?<|end|>\n<|assistant|>\n",
    talk="<|system|>\nBe brief.<|end|>\n<|user|>\nWho wrote Faust?<|end|>\n<|assistant|>\n"
    "Goethe.<|end|>\n<|user|>\nWhen?<|end|>\n<|assistant|>\nIn 1808.<|end|>\n"
    "<|user|>\nWhere?<|end|>\n<|assistant|>\n",
)  # fmt: skip

PHI4 = Family(
    template=jinja(
        """
        {% for m in messages if m.role in ['system', 'user', 'assistant'] %}
        {{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}
        {% endfor %}
        {% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}
        """
    ),
    bos="<|endoftext|>", eos="<|im_end|>", end="<|im_end|>", adds_bos=False,
    special=("<|im_start|>", "<|im_sep|>"), opening="<|im_start|>assistant<|im_sep|>",
    question="<|im_start|>user<|im_sep|>Who wrote Faust?<|im_end|><|im_start|>assistant<|im_sep|>",
    talk="<|im_start|>system<|im_sep|>Be brief.<|im_end|>"
    "<|im_start|>user<|im_sep|>Who wrote Faust?<|im_end|>"
    "<|im_start|>assistant<|im_sep|>Goethe.<|im_end|><|im_start|>user<|im_sep|>When?<|im_end|>"
    "<|im_start|>assistant<|im_sep|>In 1808.<|im_end|><|im_start|>user<|im_sep|>Where?<|im_end|>"
    "<|im_start|>assistant<|im_sep|>",
)  # fmt: skip

ZEPHYR = Family(  # its marks of roles are no tokens, and no start token is written
    template=jinja(
        """
        {% for m in messages if m.role in ['system', 'user', 'assistant'] %}
        {{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}
        {% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}
        {% endfor %}
        """
    ),
    bos="<s>", eos="</s>", end="</s>", opening="<|assistant|>\n",
    question="<|user|>\nWho wrote Faust?</s>\n<|assistant|>\n",
    talk="<|system|>\nBe brief.</s>\n<|user|>\nWho wrote Faust?</s>\n<|assistant|>\nGoethe.</s>\n"
    "<|user|>\nWhen?</s>\n<|assistant|>\nIn 1808.</s>\n<|user|>\nWhere?</s>\n<|assistant|>\n",
)  # fmt: skip

VICUNA = Family(
    template=jinja(
        SPLIT, ALTERNATE,
        "{{ bos_token + (system or '" + _VICUNA + "') }}",
        """
        {% for m in turns %}
        {% if m.role == 'user' %}{{ ' USER: ' + m.content | trim }}
        {% else %}{{ ' ASSISTANT: ' + m.content | trim + eos_token }}{% endif %}
        {% endfor %}
        {% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}
        """,
    ),
    bos="<s>", eos="</s>", end="</s>", opening=" ASSISTANT:",
    question=f"<s>{_VICUNA} USER: Who wrote Faust? ASSISTANT:",
    talk="<s>Be brief. USER: Who wrote Faust? ASSISTANT: Goethe.</s> USER: When? "
    "ASSISTANT: In 1808.</s> USER: Where? ASSISTANT:",
)  # fmt: skip


def _command(role: str, text: str = "") -> str:
    begin = f"<|START_OF_TURN_TOKEN|><|{role}_TOKEN|>{text}"
    return begin + "<|END_OF_TURN_TOKEN|>" * bool(text)


_COMMAND_TURNS = """
    {% macro turn(role, text) %}
    {{ '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' + text | trim + '<|END_OF_TURN_TOKEN|>' }}
    {% endmacro %}
    {% set roles = {'user': 'USER', 'assistant': 'CHATBOT'} %}
"""
_COMMAND_OPENS = """
    {% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}
"""
COMMAND_R = Family(  # with a second template for tools, which writes all calls of a turn as a list
    template={
        "default": jinja(
            SPLIT, ALTERNATE, _COMMAND_TURNS,
            """
            {{ bos_token }}{% if system %}{{ turn('SYSTEM', system) }}{% endif %}
            {% for m in turns %}{{ turn(roles[m.role], m.content) }}{% endfor %}
            """,
            _COMMAND_OPENS,
        ),
        "tool_use": jinja(
            SPLIT, _COMMAND_TURNS,
            """
            {% set told = '\\n\\n## Available Tools\\n' + tools | tojson %}
            {{ bos_token + turn('SYSTEM', system + told) }}
            {% for m in turns %}
            {% if m.role == 'tool' %}
            {{ turn('SYSTEM', '<results>\\n' + m.content + '\\n</results>') }}
            {% elif m.tool_calls %}
            {% set calls = m.tool_calls | map(attribute='function') | list | tojson %}
            {{ turn('CHATBOT', 'Action: ```json\\n' + calls + '```') }}
            {% else %}{{ turn(roles[m.role], m.content) }}{% endif %}
            {% endfor %}
            """,
            _COMMAND_OPENS,
        ),
    },
    bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>", end="<|END_OF_TURN_TOKEN|>",
    special=("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    opening=_command("CHATBOT"),
    question="<BOS_TOKEN>" + _command("USER", "Who wrote Faust?") + _command("CHATBOT"),
    talk="<BOS_TOKEN>" + _command("SYSTEM", "Be brief.") + _command("USER", "Who wrote Faust?")
    + _command("CHATBOT", "Goethe.") + _command("USER", "When?")
    + _command("CHATBOT", "In 1808.") + _command("USER", "Where?") + _command("CHATBOT"),
)  # fmt: skip

_BOS = "<|begin▁of▁sentence|>"
_EOS = "<|end▁of▁sentence|>"


def _wide(text: str) -> str:
    """Replace the bars of control tokens by the wide ones that DeepSeek has."""
    return text.replace("<|", "<\uff5c").replace("|>", "\uff5c>")


_DEEPSEEK = """
    {% set all = namespace(system='', out=false) %}
    {% for m in messages if m.role == 'system' %}
    {% set all.system = all.system + ('\\n\\n' if all.system else '') + m.content %}
    {% endfor %}
    {{ bos_token + all.system }}
    {% for m in messages %}
    {% if m.role == 'user' %}{{ '<|User|>' + m.content }}
    {% elif m.role == 'assistant' and m.content is none %}
    {{ '<|Assistant|><|tool▁calls▁begin|>' }}
    {% for call in m.tool_calls %}
    {{ '<|tool▁call▁begin|>function<|tool▁sep|>' + call.function.name + '\\n```json\\n' }}
    {{ call.function.arguments | tojson + '\\n```<|tool▁call▁end|>' }}
    {% endfor %}
    {{ '<|tool▁calls▁end|><|end▁of▁sentence|>' }}
    {% elif m.role == 'assistant' %}{{ '<|Assistant|>' + SAID + '<|end▁of▁sentence|>' }}
    {% elif m.role == 'tool' %}
    {{ '<|tool▁output▁begin|>' + m.content + '<|tool▁output▁end|>' }}
    {% endif %}
    {% endfor %}
    {% if add_generation_prompt %}{{ '<|Assistant|>OPENED' }}{% endif %}
"""
"""A turn with calls loses them if its content is empty, and not none."""
_DEEPSEEK_TOKENS = tuple(
    f"<\uff5c{name}\uff5c>"
    for name in (
        "User", "Assistant", "tool▁calls▁begin", "tool▁calls▁end", "tool▁call▁begin",
        "tool▁call▁end", "tool▁sep", "tool▁output▁begin", "tool▁output▁end",
    )
)  # fmt: skip
_DEEPSEEK_QUESTION = _wide(f"{_BOS}<|User|>Who wrote Faust?<|Assistant|>")
_DEEPSEEK_TALK = _wide(
    f"{_BOS}Be brief.<|User|>Who wrote Faust?<|Assistant|>Goethe.{_EOS}"
    f"<|User|>When?<|Assistant|>In 1808.{_EOS}<|User|>Where?<|Assistant|>"
)

DEEPSEEK_V3 = Family(
    template=jinja(_wide(_DEEPSEEK.replace("SAID", "m.content").replace("OPENED", ""))),
    bos=_wide(_BOS), eos=_wide(_EOS), end=_wide(_EOS), special=_DEEPSEEK_TOKENS,
    moves_system=True, opening=_wide("<|Assistant|>"),
    question=_DEEPSEEK_QUESTION, talk=_DEEPSEEK_TALK,
)  # fmt: skip

_UNTHOUGHT = "m.content.split('</think>')[-1]"
DEEPSEEK_R1 = replace(
    DEEPSEEK_V3,
    template=jinja(_wide(_DEEPSEEK.replace("SAID", _UNTHOUGHT).replace("OPENED", "<think>\\n"))),
    opening=_wide("<|Assistant|><think>\n"),
    question=_DEEPSEEK_QUESTION + "<think>\n",
    talk=_DEEPSEEK_TALK + "<think>\n",
)


def _granite(role: str, text: str = "") -> str:
    begin = f"<|start_of_role|>{role}<|end_of_role|>{text}"
    return begin + "<|end_of_text|>\n" * bool(text)


GRANITE3 = Family(
    template=jinja(
        SPLIT,
        """
        {% macro turn(role, text) %}
        {{ '<|start_of_role|>' + role + '<|end_of_role|>' + text + '<|end_of_text|>\\n' }}
        {% endmacro %}
        """,
        "{{ turn('system', system or '" + _GRANITE + "') }}",
        """
        {% if tools %}{{ turn('available_tools', tools | tojson(indent=4)) }}{% endif %}
        {% for m in turns %}
        {% if m.role == 'tool' %}{{ turn('tool_response', m.content) }}
        {% elif m.tool_calls %}
        {% set calls = m.tool_calls | map(attribute='function') | list | tojson %}
        {{ turn('assistant', '<|tool_call|>' + calls) }}
        {% else %}{{ turn(m.role, m.content) }}{% endif %}
        {% endfor %}
        {% if add_generation_prompt %}
        {{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}
        """,
    ),
    bos="<|end_of_text|>", eos="<|end_of_text|>", end="<|end_of_text|>",
    adds_bos=False, one_bos=False,
    special=("<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"),
    opening=_granite("assistant"),
    question=_granite("system", _GRANITE) + _granite("user", "Who wrote Faust?")
    + _granite("assistant"),
    talk=_granite("system", "Be brief.") + _granite("user", "Who wrote Faust?")
    + _granite("assistant", "Goethe.") + _granite("user", "When?")
    + _granite("assistant", "In 1808.") + _granite("user", "Where?") + _granite("assistant"),
)  # fmt: skip

OLMO2 = Family(
    template=jinja(
        """
        {{ bos_token }}
        {% for m in messages %}
        {% if m.role in ['system', 'user'] %}{{ '<|' + m.role + '|>\\n' + m.content + '\\n' }}
        {% elif m.role == 'assistant' %}
        {{ '<|assistant|>\\n' + m.content + eos_token + ('' if loop.last else '\\n') }}
        {% endif %}
        {% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}
        {% endfor %}
        """
    ),
    bos="<|endoftext|>", eos="<|endoftext|>", end="<|endoftext|>", adds_bos=False, one_bos=False,
    opening="<|assistant|>\n",
    question="<|endoftext|><|user|>\nWho wrote Faust?\n<|assistant|>\n",
    talk="<|endoftext|><|system|>\nBe brief.\n<|user|>\nWho wrote Faust?\n<|assistant|>\n"
    "Goethe.<|endoftext|>\n<|user|>\nWhen?\n<|assistant|>\nIn 1808.<|endoftext|>\n"
    "<|user|>\nWhere?\n<|assistant|>\n",
)  # fmt: skip

SMOLVLM = Family(  # shows parts of contents alone, not strings
    template=jinja(
        """
        {{ '<|im_start|>' }}
        {% for m in messages %}
        {{ m.role | capitalize + (':' if m.content[0].type == 'image' else ': ') }}
        {% for part in m.content %}
        {% if part.type == 'text' %}{{ part.text }}
        {% elif part.type == 'image' %}{{ '<image>' }}{% endif %}
        {% endfor %}
        {{ '<end_of_utterance>\\n' }}
        {% endfor %}
        {% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}
        """
    ),
    bos="<|im_start|>", eos="<|im_end|>", end="<end_of_utterance>", adds_bos=False,
    special=("<end_of_utterance>", "<image>"), opening="Assistant:",
    question="<|im_start|>User: Who wrote Faust?<end_of_utterance>\nAssistant:",
    talk="<|im_start|>System: Be brief.<end_of_utterance>\nUser: Who wrote Faust?"
    "<end_of_utterance>\nAssistant: Goethe.<end_of_utterance>\nUser: When?<end_of_utterance>\n"
    "Assistant: In 1808.<end_of_utterance>\nUser: Where?<end_of_utterance>\nAssistant:",
)  # fmt: skip

FAMILIES = {
    "Qwen2.5": first.QWEN25,
    "Qwen3": first.QWEN3,
    "SmolLM2": first.SMOLLM2,
    "Llama 2": first.LLAMA2,
    "Llama 3": first.LLAMA3,
    "Llama 3.1": first.LLAMA31,
    "Mistral v1": first.MISTRAL_V1,
    "Mistral v3": first.MISTRAL_V3,
    "Mistral Small": first.MISTRAL_SMALL,
    "Gemma 2": GEMMA2,
    "Gemma 3": GEMMA3,
    "Phi-3": PHI3,
    "Phi-4": PHI4,
    "Zephyr": ZEPHYR,
    "Vicuna": VICUNA,
    "Command-R": COMMAND_R,
    "DeepSeek V3": DEEPSEEK_V3,
    "DeepSeek R1": DEEPSEEK_R1,
    "Granite 3": GRANITE3,
    "OLMo 2": OLMO2,
    "SmolVLM": SMOLVLM,
    "system first": first.SYSTEM_FIRST,
}
