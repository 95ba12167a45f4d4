"""``CallFormat``: how a chat template writes a tool call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """How a chat template writes a tool call: JSON with a name and arguments, between two marks.

    Attributes:
        begin: Text before the JSON; its first word starts a call anywhere in an answer.
        end: Text after the JSON.
        between: Text between two calls.
        name_key: JSON key of the tool's name.
        arguments_key: JSON key of the arguments.
    """

    begin: str = "<tool_call>\n"
    end: str = "\n</tool_call>"
    between: str = "\n"
    name_key: str = "name"
    arguments_key: str = "arguments"

    @property
    def mark(self) -> str:
        """The word that tells a call from text; empty if there is none."""
        return "".join(self.begin.split()[:1])


DEFAULT_CALLS = CallFormat()
"""The format of Hermes and Qwen models, used where a template has none of its own."""
