"""How a chat template writes a tool call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """How a model's chat template writes a call: JSON with a name and arguments between marks.

    Attributes:
        begin: What comes before; its first word starts a call wherever it comes in a text.
        end: What comes after.
        between: What comes between two calls.
        name_key: Key of the tool's name.
        arguments_key: Key of the arguments.
    """

    begin: str = "<tool_call>\n"
    end: str = "\n</tool_call>"
    between: str = "\n"
    name_key: str = "name"
    arguments_key: str = "arguments"

    @property
    def mark(self) -> str:
        """What tells a call from text; empty if nothing does."""
        return "".join(self.begin.split()[:1])


DEFAULT_CALLS = CallFormat()
