"""What tests of chat models share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

TALK: list[BaseMessage] = [
    SystemMessage("Be kind."), HumanMessage("hi"), AIMessage("hello"), HumanMessage("more"),
]  # fmt: skip


def texts(messages: Sequence[Any]) -> list[Any]:
    return [message.content for message in messages]
