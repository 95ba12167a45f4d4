"""Chat templates of Qwen, SmolLM2, Llama and Mistral, and one that demands a system message.

Written anew from the documented prompt formats. What matters is kept: control tokens, blanks, who
may speak when, what is refused or left out. Instructions to the model are shortened.
"""

from __future__ import annotations

from tests.helpers.chat_pieces import (
    ALTERNATE,
    CALLS_IN_CHATML,
    NINE,
    SPLIT,
    TOOLS_IN_CHATML,
    Family,
    asks,
    jinja,
)

_IM = ("<|im_start|>", "<|im_end|>")
_QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_DATE = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

_CHATML = """
    {% for m in messages %}
    {{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {% endfor %}
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
_CHATML_TALK = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho wrote Faust?<|im_end|>\n"
    "<|im_start|>assistant\nGoethe.<|im_end|>\n<|im_start|>user\nWhen?<|im_end|>\n"
    "<|im_start|>assistant\nIn 1808.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
_CHATML_QUESTION = "<|im_start|>user\nWho wrote Faust?<|im_end|>\n<|im_start|>assistant\n"

QWEN25 = Family(
    template=jinja(
        "{% set unsaid = '" + _QWEN + "' %}", SPLIT,
        "{{ '<|im_start|>system\\n' + (system or unsaid) }}",
        TOOLS_IN_CHATML, "{{ '<|im_end|>\\n' }}", CALLS_IN_CHATML,
    ),
    bos=None, eos="<|im_end|>", end="<|im_end|>", special=("<|endoftext|>", "<|im_start|>"),
    opening="<|im_start|>assistant\n",
    question=f"<|im_start|>system\n{_QWEN}<|im_end|>\n{_CHATML_QUESTION}",
    talk=_CHATML_TALK,
)  # fmt: skip

QWEN3 = Family(
    template=jinja(
        SPLIT,
        "{% if system or tools %}{{ '<|im_start|>system\\n' + system }}", TOOLS_IN_CHATML,
        "{{ '<|im_end|>\\n' }}{% endif %}",
        "{% set thinks = true %}", CALLS_IN_CHATML,
        "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}",
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}",
    ),
    bos=None, eos="<|im_end|>", end="<|im_end|>", special=("<|endoftext|>", "<|im_start|>"),
    opening="<|im_start|>assistant\n", question=_CHATML_QUESTION, talk=_CHATML_TALK,
)  # fmt: skip

SMOLLM2 = Family(
    template=jinja(
        "{% if messages[0].role != 'system' %}",
        "{{ '<|im_start|>system\\n" + _SMOL + "<|im_end|>\\n' }}{% endif %}", _CHATML,
    ),
    bos="<|im_start|>", eos="<|im_end|>", end="<|im_end|>", adds_bos=False, one_bos=False,
    opening="<|im_start|>assistant\n",
    question=f"<|im_start|>system\n{_SMOL}<|im_end|>\n{_CHATML_QUESTION}",
    talk=_CHATML_TALK,
)  # fmt: skip

SYSTEM_FIRST = Family(
    template=jinja(
        "{% if messages[0].role != 'system' %}",
        "{{ raise_exception('The first message must be from system.') }}{% endif %}", _CHATML,
    ),
    bos=None, eos="<|im_end|>", end="<|im_end|>", special=_IM,
    opening="<|im_start|>assistant\n", question="", talk=_CHATML_TALK,
)  # fmt: skip

LLAMA2 = Family(
    template=jinja(
        SPLIT, ALTERNATE,
        """
        {% for m in turns %}
        {% if m.role == 'user' %}
        {{ bos_token + '[INST] ' }}
        {% if system and loop.first %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}
        {{ m.content | trim + ' [/INST]' }}
        {% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}
        {% endfor %}
        """,
    ),
    bos="<s>", eos="</s>", end="</s>", one_bos=False, opening=" [/INST]",
    question="<s>[INST] Who wrote Faust? [/INST]",
    talk="<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho wrote Faust? [/INST] Goethe. </s>"
    "<s>[INST] When? [/INST] In 1808. </s><s>[INST] Where? [/INST]",
)  # fmt: skip


def _llama3(role: str, text: str = "") -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}" + ("<|eot_id|>" if text else "")


_LLAMA3_TALK = (
    _llama3("user", "Who wrote Faust?") + _llama3("assistant", "Goethe.")
    + _llama3("user", "When?") + _llama3("assistant", "In 1808.")
    + _llama3("user", "Where?") + _llama3("assistant")
)  # fmt: skip
_LLAMA3_TOKENS = (
    "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>",
)  # fmt: skip
_HEADER = """
    {% macro head(role) %}
    {{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
    {% endmacro %}
"""

LLAMA3 = Family(
    template=jinja(
        _HEADER, "{{ bos_token }}",
        "{% for m in messages %}{{ head(m.role) + m.content | trim + '<|eot_id|>' }}{% endfor %}",
        "{% if add_generation_prompt %}{{ head('assistant') }}{% endif %}",
    ),
    bos="<|begin_of_text|>", eos="<|end_of_text|>", end="<|eot_id|>", special=_LLAMA3_TOKENS,
    opening=_llama3("assistant"),
    question="<|begin_of_text|>" + _llama3("user", "Who wrote Faust?") + _llama3("assistant"),
    talk="<|begin_of_text|>" + _llama3("system", "Be brief.") + _LLAMA3_TALK,
)  # fmt: skip

LLAMA31 = Family(
    template=jinja(
        _HEADER, SPLIT,
        """
        {% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}
        {{ bos_token + head('system') }}
        {% if tools %}{{ 'Environment: ipython\\n' }}{% endif %}
        {{ 'Cutting Knowledge Date: December 2023\\nToday Date: ' + date_string + '\\n\\n' }}
        {{ system | trim + '<|eot_id|>' }}
        {% for m in turns %}
        {% if m.role == 'tool' %}{{ head('ipython') + m.content | tojson + '<|eot_id|>' }}
        {% elif m.tool_calls %}
        {% if m.tool_calls | length > 1 %}{{ raise_exception('Only one call at once!') }}{% endif %}
        {% set call = m.tool_calls[0].function %}
        {{ head('assistant') + '{"name": "' + call.name + '", "parameters": ' }}
        {{ call.arguments | tojson + '}<|eot_id|>' }}
        {% else %}
        {{ head(m.role) }}
        {% if tools and loop.first %}
        {{ 'Answer with JSON for a call of one of these functions.\\n\\n' }}
        {% for tool in tools %}{{ tool | tojson(indent=4) + '\\n\\n' }}{% endfor %}
        {% endif %}
        {{ m.content | trim + '<|eot_id|>' }}
        {% endif %}
        {% endfor %}
        {% if add_generation_prompt %}{{ head('assistant') }}{% endif %}
        """,
    ),
    bos="<|begin_of_text|>", eos="<|end_of_text|>", end="<|eot_id|>", special=_LLAMA3_TOKENS,
    opening=_llama3("assistant"),
    question="<|begin_of_text|>" + _llama3("system", _DATE)
    + _llama3("user", "Who wrote Faust?") + _llama3("assistant"),
    talk="<|begin_of_text|>" + _llama3("system", f"{_DATE}Be brief.") + _LLAMA3_TALK,
)  # fmt: skip

MISTRAL_V1 = Family(
    template=jinja(
        "{% set turns = messages %}", ALTERNATE,
        """
        {{ bos_token }}
        {% for m in turns %}
        {% if m.role == 'user' %}{{ ' [INST] ' + m.content + ' [/INST]' }}
        {% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}
        {% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}
        {% endfor %}
        """,
    ),
    bos="<s>", eos="</s>", end="</s>", opening=" [/INST]",
    question="<s> [INST] Who wrote Faust? [/INST]",
    talk="<s> [INST] Be brief.\n\nWho wrote Faust? [/INST] Goethe.</s> "
    "[INST] When? [/INST] In 1808.</s> [INST] Where? [/INST]",
)  # fmt: skip

MISTRAL_V3 = Family(
    template=jinja(
        SPLIT, "{% set blank = ' ' %}", NINE, asks("turns"),
        """
        {{ bos_token }}
        {% for m in turns %}
        {% if m.role == 'user' %}
        {% set last = loop.index0 == asked.at %}
        {% if tools and last %}
        {{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
        {{ '[INST] ' + (system + '\\n\\n' if system and last else '') + m.content + '[/INST]' }}
        {% elif m.tool_calls %}{{ calls(m) }}
        {% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}
        {% else %}{{ result(m) }}{% endif %}
        {% endfor %}
        """,
    ),
    bos="<s>", eos="</s>", end="</s>", opening="[/INST]", moves_system=True,
    special=("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
             "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    question="<s>[INST] Who wrote Faust?[/INST]",
    talk="<s>[INST] Who wrote Faust?[/INST] Goethe.</s>[INST] When?[/INST] In 1808.</s>"
    "[INST] Be brief.\n\nWhere?[/INST]",
)  # fmt: skip

MISTRAL_SMALL = Family(
    template=jinja(
        SPLIT, "{% set blank = '' %}", NINE,
        """
        {{ bos_token }}
        {% if system %}{{ '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}{% endif %}
        {% if tools %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
        {% for m in turns %}
        {% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
        {% elif m.tool_calls %}{{ calls(m) }}
        {% elif m.role == 'assistant' %}{{ m.content + eos_token }}
        {% else %}{{ result(m) }}{% endif %}
        {% endfor %}
        """,
    ),
    bos="<s>", eos="</s>", end="</s>", opening="[/INST]",
    special=(*MISTRAL_V3.special, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    question="<s>[INST]Who wrote Faust?[/INST]",
    talk="<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]Who wrote Faust?[/INST]Goethe.</s>"
    "[INST]When?[/INST]In 1808.</s>[INST]Where?[/INST]",
)  # fmt: skip
