"""Prompts, and the tree of partial answers that grows from each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from w2s_chains.core.prompts import Prompt

FinishReason = Literal["eos", "stop", "length"]


@dataclass(slots=True, kw_only=True)
class Usage:
    """Tokens spent on one prompt, counted where they are spent.

    Attributes:
        prompt_tokens: Prompt tokens prefilled by the proposer.
        proposed_tokens: Tokens sampled by the proposer, in kept and rejected branches alike, end
            tokens included.
        guide_tokens: Tokens that the tuned and the untuned guide judge together, prompt included.
            Counted for each hypothesis, also where siblings share a reading.
    """

    prompt_tokens: int = 0
    proposed_tokens: int = 0
    guide_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False, weakref_slot=True)
class Hypothesis:
    """A partial answer: an immutable node of the tree of chunks that grows from one prompt.

    Compared by identity; extended, never copied or mutated, so that whatever is known about a
    node (its cache, its score) can be kept under the node itself and dies with it.

    Attributes:
        prompt: The prompt at the root.
        parent: The hypothesis that this one continues; None at the root.
        text: The text of this chunk alone. Never ends inside a character: bytes of an unfinished
            one wait in ``pending``.
        token_ids: The proposer's token ids of this chunk, without end token; None where the
            proposer gives only text.
        pending: The last token ids of the path that have not become text yet.
        finish_reason: "eos" (the model ended its turn), "stop" (a stop string came), "length"
            (max_tokens), or None while it can go on.
        vocabulary: Fingerprint of the vocabulary that ``token_ids`` index; None without ids.
        stream: Random stream of this path: the first successor goes on with its parent's stream,
            the others fork, so that one successor per step samples the same text however it is
            cut into chunks.
        n_tokens: Tokens on the path from the root, this chunk included.
        drift: Sum of log q(token) - log p(token) over the path, in nats, where q is what the
            proposer sampled from and p the same without steering; None if nothing steered it, or
            the proposer does not tell.
        usage: Tokens spent so far on this prompt; shared by the whole tree.
    """

    prompt: Prompt
    parent: Hypothesis | None = None
    text: str = ""
    token_ids: tuple[int, ...] | None = ()
    pending: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    vocabulary: str | None = None
    stream: int = 0
    n_tokens: int = 0
    drift: float | None = None
    usage: Usage = field(default_factory=Usage)

    @classmethod
    def root(cls, prompt: Prompt | str) -> Hypothesis:
        """The empty answer to ``prompt``."""
        return cls(prompt=Prompt(text=prompt) if isinstance(prompt, str) else prompt)

    def extend(
        self,
        text: str,
        token_ids: tuple[int, ...] | None = None,
        *,
        pending: tuple[int, ...] = (),
        finish_reason: FinishReason | None = None,
        vocabulary: str | None = None,
        stream: int | None = None,
        n_tokens: int | None = None,
        drift: float | None = None,
    ) -> Hypothesis:
        """A child of this hypothesis; see the attributes for the arguments.

        ``n_tokens`` is the chunk's own count, for text without token ids.
        """
        if self.finished:
            raise ValueError(f"{self!r} is finished and cannot be extended")
        return Hypothesis(
            prompt=self.prompt,
            parent=self,
            text=text,
            token_ids=token_ids,
            pending=pending,
            finish_reason=finish_reason,
            vocabulary=vocabulary,
            stream=self.stream if stream is None else stream,
            n_tokens=self.n_tokens + (len(token_ids or ()) if n_tokens is None else n_tokens),
            drift=drift,
            usage=self.usage,
        )

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def ended(self) -> bool:
        """Whether the model itself ended its turn here, not a length limit or a stop string."""
        return self.finish_reason == "eos"

    def ancestors(self) -> Iterator[Hypothesis]:
        """This hypothesis, its parent, and so on up to the root."""
        node: Hypothesis | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def path(self) -> list[Hypothesis]:
        """Root first, this hypothesis last."""
        return list(self.ancestors())[::-1]

    @property
    def response(self) -> str:
        """All text from the root to here."""
        return "".join(node.text for node in self.path)

    @property
    def response_ids(self) -> tuple[int, ...] | None:
        """All of the proposer's token ids from the root to here; None if a chunk has none."""
        ids: list[int] = []
        for node in self.path:
            if node.token_ids is None:
                return None
            ids += node.token_ids
        return tuple(ids)

    @property
    def identity(self) -> tuple[str, tuple[int, ...], FinishReason | None]:
        """Equal for hypotheses that say the same: same text, same waiting bytes, same ending."""
        return self.response, self.pending, self.finish_reason

    def __repr__(self) -> str:
        return f"Hypothesis({self.response!r}, finish_reason={self.finish_reason!r})"


def common_ancestor(hypotheses: list[Hypothesis]) -> Hypothesis:
    """The deepest node on the path of every hypothesis; their shared text can no longer change."""
    paths = [h.path for h in hypotheses]
    shared = paths[0][0]
    for level in zip(*paths, strict=False):
        if any(node is not level[0] for node in level):
            break
        shared = level[0]
    return shared
