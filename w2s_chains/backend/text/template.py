"""``PromptTemplate``: how one model reads a prompt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _has_slot(value: str) -> str:
    if "{prompt}" not in value:
        raise ValueError(f"template {value!r} has no '{{prompt}}' to put the prompt into")
    return value


Template = Annotated[
    str, AfterValidator(_has_slot), Field(json_schema_extra={"pattern": r"\{prompt\}"})
]
"""A text in which ``{prompt}`` is replaced literally."""


class PromptTemplate(BaseModel):
    """How one model reads a prompt.

    Attributes:
        template: Text in which ``{prompt}`` is replaced literally; other braces stay. With
            ``chat`` it is applied first, and only to prompts that are raw strings.
        chat: Render with the tokenizer's chat template; a raw string becomes one user turn.
            "auto": only if there is a chat template.
        system: System message to put first unless the prompt has one. Needs ``chat``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: Template = "{prompt}"
    chat: bool | Literal["auto"] = False
    system: str | None = None

    @model_validator(mode="after")
    def _system_needs_chat(self) -> PromptTemplate:
        if self.system is not None and not self.chat:
            raise ValueError("a system message needs the chat template: set chat to true")
        return self
