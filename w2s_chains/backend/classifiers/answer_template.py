"""``AnswerTemplate``: how to make one text from prompt and answer."""

from __future__ import annotations

from pydantic import field_validator

from w2s_chains.core.configs import Config


class AnswerTemplate(Config):
    """How to make the text that a judge reads.

    Attributes:
        template: The text to judge; ``{prompt}`` and ``{answer}`` are replaced literally.
    """

    template: str = "{answer}"

    @field_validator("template")
    @classmethod
    def _has_slot(cls, value: str) -> str:
        if "{answer}" not in value:
            raise ValueError(f"template {value!r} has no '{{answer}}' to put the answer into")
        return value

    def rendered(self, prompt: str, answer: str) -> str:
        """Return the text to judge."""
        before, _, after = self.template.partition("{answer}")
        return before.replace("{prompt}", prompt) + answer + after.replace("{prompt}", prompt)
