"""``Trace``: the tree of one search as a value, read from and written to JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from w2s_chains.core.configs import Checked, config_errors
from w2s_chains.core.hypothesis import FinishReason
from w2s_chains.core.slots import is_mapping
from w2s_chains.errors import ConfigError, brief, shown
from w2s_chains.tracing.page import frame, page

VERSION = 1
"""The version of the schema. Fields may be added to a version, but none changes its meaning."""

State = Literal["answer", "kept", "finished", "rejected"]


class TokenRatio(Checked):
    """What the guides think of one of their tokens.

    Attributes:
        text: The text of the token.
        ratio: log p_tuned(token) - log p_untuned(token), in nats.
    """

    text: str
    ratio: float


class TraceNode(Checked):
    """A partial answer that the search considered.

    Attributes:
        id: Its number, in the order of creation; the root is 0.
        parent: The number of the node that it continues; None for the root.
        round: The round in which it was proposed, from 1; 0 for the root.
        text: The text of this chunk alone.
        tokens: The large model's tokens in it.
        state: "answer" on the path of the answer, "kept" if the search went on from it, "finished"
            if it is a whole answer that was not chosen, else "rejected".
        score: The score of the whole text up to here; None if it was never scored.
        logprob: Sum of log p of its tokens under the frozen model, in nats; None if unknown.
        finish_reason: Why the answer ended here; None if it could go on.
        ratios_from: Where the first token of ``ratios`` begins in the whole text, in characters. A
            guide with a vocabulary of its own may cut the end of the parent's text anew.
        ratios: What the guides think of its tokens; None if they cannot tell.
    """

    id: int
    parent: int | None = None
    round: int
    text: str
    tokens: int
    state: State = "rejected"
    score: float | None = None
    logprob: float | None = None
    finish_reason: FinishReason | None = None
    ratios_from: int | None = None
    ratios: tuple[TokenRatio, ...] | None = None


class TraceRound(Checked):
    """One round of a search: everything between two choices of the strategy.

    Attributes:
        number: Its number, from 1.
        expanded: The nodes that were continued.
        proposed: The candidates; those that were forgotten to bound the trace are not among them.
        committed: Characters of the answer that were certain after this round.
        seconds: From the beginning of the search to the end of this round.
        read_tokens: Rows that the large model had read by then; None if unknown.
        guide_tokens: Rows that the guides had read by then.
    """

    number: int
    expanded: tuple[int, ...]
    proposed: tuple[int, ...]
    committed: int = 0
    seconds: float
    read_tokens: int | None = None
    guide_tokens: int = 0


class TracedAnswer(Checked):
    """The answer and what it cost; ``Finished`` says what the numbers mean."""

    id: int
    text: str
    score: float | None = None
    finish_reason: FinishReason | None = None
    completion_tokens: int | None = None
    prompt_tokens: int = 0
    read_tokens: int | None = None
    rounds: int = 0
    proposed_tokens: int = 0
    guide_tokens: int = 0
    guide_flops_ratio: float | None = None
    kl: float | None = None


class Trace(Checked):
    """The tree of one search, from the first candidates to the answer.

    Attributes:
        version: The version of the schema.
        prompt: The prompt: a text, or the messages of a conversation (``role``, ``content``).
        model: The name of the large model.
        name: What to call this search where several are shown; by default its strategy's name.
        strategy: The strategy with all its fields.
        sampling: How the large model sampled.
        seed: The seed of the search.
        answer: The answer; None while the search runs.
        nodes: The nodes in the order of their numbers, the root first.
        rounds: The rounds in order.
        seconds: The time of the whole search. Searches that run at once share a machine, so that it
            depends on what else ran.
        forgotten: Number of rejected candidates that are left out, since the tree was too large.
    """

    version: Literal[1] = 1
    prompt: str | tuple[dict[str, str], ...]
    model: str = ""
    name: str | None = None
    strategy: dict[str, Any] = Field(default_factory=dict)
    sampling: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    answer: TracedAnswer | None = None
    nodes: Annotated[tuple[TraceNode, ...], Field(min_length=1)]
    rounds: tuple[TraceRound, ...]
    seconds: float = 0.0
    forgotten: int = 0

    @property
    def prompt_text(self) -> str:
        """The prompt as one text."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in self.prompt)

    def node(self, id: int) -> TraceNode:
        """Return the node with a number; raises KeyError if there is none."""
        return self._by_id[id]

    def path(self, id: int) -> list[TraceNode]:
        """Return the nodes from the root to a node."""
        return list(self._up(id))[::-1]

    def text(self, id: int) -> str:
        """Return the whole text from the root to a node."""
        return "".join(node.text for node in self.path(id))

    def _up(self, id: int | None) -> Iterator[TraceNode]:
        while id is not None:
            node = self._by_id[id]
            yield node
            id = node.parent

    @cached_property
    def _by_id(self) -> dict[int, TraceNode]:
        return {node.id: node for node in self.nodes}

    def to_json(self) -> str:
        """Return the trace as JSON; fields that are None are left out."""
        return self.model_dump_json(exclude_none=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a trace that ``to_json`` wrote.

        Raises:
            ConfigError: It is not JSON, of another version, or no tree.
        """
        try:
            values: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the trace is not JSON: {brief(error)}") from error
        if not is_mapping(values) or "version" not in values:
            raise ConfigError(
                f"the trace has to be an object with a version, but is {shown(values)}"
            )
        if values["version"] != VERSION:
            raise ConfigError(
                f"the trace is of version {shown(values['version'])}, and this w2s_chains reads "
                f"version {VERSION}; read it with the version that wrote it"
            )
        with config_errors(cls, values, "trace"):
            found = cls.model_validate(values)
        found.check()
        return found

    def check(self) -> None:
        """Refuse what is no tree: unknown parents, or two nodes of one number.

        Raises:
            ConfigError: It is none; the message names the node.
        """
        seen: set[int] = set()
        for node in self.nodes:
            if node.id in seen:
                raise ConfigError(f"the trace has two nodes of number {node.id}")
            if (node.parent is None) != (not seen) or (seen and node.parent not in seen):
                raise ConfigError(
                    f"node {node.id} of the trace continues node {node.parent}, which does not "
                    "come before it"
                )
            seen.add(node.id)
        if self.answer is not None and self.answer.id not in seen:
            raise ConfigError(f"the answer of the trace is node {self.answer.id}, which is missing")

    def save(self, path: str | Path, *beside: Trace) -> None:
        """Write the trace to a file.

        Args:
            path: ``.html`` writes one page that opens from disk, ``.json`` what ``from_json``
                reads.
            *beside: Other traces of the same prompt, which the page shows side by side.

        Raises:
            ConfigError: The name ends otherwise, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() in (".html", ".htm"):
            text = page([one.to_json() for one in (self, *beside)])
        elif path.suffix.lower() == ".json" and not beside:
            text = self.to_json()
        else:
            raise ConfigError(
                f"a trace is written as .html or, one alone, as .json, but the file is "
                f"{str(path)!r}"
            )
        try:
            path.write_text(text, encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(f"cannot write the trace to {str(path)!r}: {error}") from error

    def _repr_html_(self) -> str:
        """Show the tree in a notebook, in a frame of its own."""
        return frame(page([self.to_json()]))

    def __repr__(self) -> str:
        answer = None if self.answer is None else self.answer.text
        return (
            f"Trace({shown(self.prompt_text)}, strategy={self.strategy.get('type')!r}, "
            f"{len(self.rounds)} rounds, {len(self.nodes) - 1} candidates, answer={shown(answer)})"
        )

    __str__ = __repr__


def prompt_of(text: str, messages: Sequence[Any]) -> str | tuple[dict[str, str], ...]:
    """Return what ``Trace.prompt`` says of a prompt: its text, or its messages."""
    if not messages:
        return text
    return tuple({"role": turn.role, "content": turn.plain_text} for turn in messages)
