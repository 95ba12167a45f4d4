"""``PromptTemplate``: how one model reads a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from w2s_chains.core.configs import Config
from w2s_chains.errors import shown


def _has_slot(value: str) -> str:
    if "{prompt}" not in value:
        raise ValueError(f"template {value!r} has no '{{prompt}}' to put the prompt into")
    return value


def _is_variable(name: str) -> str:
    if not name.isidentifier() or name in TAKEN:
        raise ValueError(
            f"{shown(name)} is no variable that a chat template can be given; give a name such as "
            "enable_thinking"
        )
    return name


TAKEN = frozenset({
    *("messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation"),
    *("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    *("tokenizer_kwargs", "raise_exception", "strftime_now"),
})  # fmt: skip
"""Arguments of transformers' ``apply_chat_template``, and what it gives to templates itself."""

TemplateVariables = Mapping[
    Annotated[str, AfterValidator(_is_variable)], bool | int | float | str | None
]
"""Variables of a chat template, such as ``{"enable_thinking": False}``."""

Template = Annotated[
    str, AfterValidator(_has_slot), Field(json_schema_extra={"pattern": r"\{prompt\}"})
]
"""A text in which ``{prompt}`` is replaced literally."""


class PromptTemplate(Config):
    """How one model reads a prompt.

    Attributes:
        template: Text in which ``{prompt}`` is replaced literally; other braces stay. With
            ``chat`` it is applied first, and only to prompts that are raw strings.
        chat: Render with the tokenizer's chat template; a raw string becomes one user turn.
            "auto": only if there is a chat template.
        system: System message to put first unless the prompt has one. Needs ``chat``.
        chat_template_kwargs: Variables of the chat template, such as ``enable_thinking: false``
            (the name that vLLM and SGLang give them). Needs ``chat``.
    """

    template: Template = "{prompt}"
    chat: bool | Literal["auto"] = False
    system: str | None = None
    chat_template_kwargs: TemplateVariables = Field(default_factory=dict[str, Any])

    def __hash__(self) -> int:
        return hash(repr(self))  # some fields hold mappings

    @classmethod
    def of(cls, options: PromptTemplate) -> Self:
        """Return what the options of a model say about prompts, alone."""
        return cls(**{name: getattr(options, name) for name in PromptTemplate.model_fields})

    @model_validator(mode="before")
    @classmethod
    def _chat_by_default(
        cls, values: Mapping[str, Any] | PromptTemplate, info: ValidationInfo
    ) -> Any:
        """Set ``chat`` to what the context says, if it is not given: a chat model's is "auto"."""
        context: Mapping[str, Any] = info.context or {}
        wanted = context.get("chat")
        return {"chat": wanted, **values} if wanted and isinstance(values, Mapping) else values

    def for_chat(self) -> Self:
        """Return the template for a chat model: ``chat`` is "auto" if it was not given."""
        return self if "chat" in self.model_fields_set else self.model_copy(update={"chat": "auto"})

    @model_validator(mode="after")
    def _need_chat(self) -> PromptTemplate:
        if self.system is not None and not self.chat:
            raise ValueError("a system message needs the chat template: set chat to true")
        if self.chat_template_kwargs and not self.chat:
            raise ValueError("chat_template_kwargs needs the chat template: set chat to true")
        return self
