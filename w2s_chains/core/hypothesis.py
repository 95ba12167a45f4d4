"""``Hypothesis``, a node in the tree of partial answers to a prompt, and ``Usage``."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from w2s_chains.core.prompts import Prompt

FinishReason = Literal["eos", "stop", "length"]

_MODULUS = secrets.randbits(64) | 2**64 | 1
"""Texts are compared by a hash modulo this number of 65 bits; chance makes no two texts equal."""


@dataclass(slots=True, kw_only=True)
class Usage:
    """What one prompt has cost, and how many candidates were considered for it.

    What the models *read* is the cost. It is counted from the tree alone: neither the other prompts
    of a batch, nor its padding, nor how a long chunk is cut into slices change it.

    Attributes:
        prompt_tokens: Tokens of the prompt, which the proposer prefills once.
        read_tokens: Rows (one token at one position) that the proposer reads to grow the tree. For
            each ``Expand``: one per parent, whose last token is read to sample all its children,
            and for every child its sampled tokens but the last. The root's row is the last token of
            the prompt. Sampled tokens include the end token and what follows a stop string; drafts
            are all read, whether they are accepted or not.
        proposed_tokens: Candidates considered: tokens that the proposer sampled in kept and
            rejected branches, end tokens included. This is no cost, since all children of one token
            come from one row.
        guide_tokens: Rows that the tuned and the untuned guide read together, prompts included.
            The token before several siblings is read once for all of them.
        guide_flops: Estimated FLOPs of these rows; NaN if the size of a guide is unknown.
    """

    prompt_tokens: int = 0
    read_tokens: int = 0
    proposed_tokens: int = 0
    guide_tokens: int = 0
    guide_flops: float = 0.0

    def add_guide(self, tokens: int, flops_per_token: float = math.nan) -> None:
        """Count what a guide has read; by default the guide's size is unknown."""
        if tokens:
            self.guide_tokens += tokens
            self.guide_flops += tokens * flops_per_token

    def guide_flops_ratio(self, flops_per_token: float | None) -> float | None:
        """Return the guides' FLOPs divided by the proposer's, prompts included.

        Args:
            flops_per_token: The proposer's FLOPs per token; None if unknown.

        Returns:
            The ratio; None if the size of a model is unknown.
        """
        # The last token of the prompt is among the tokens of both kinds.
        read = max(self.prompt_tokens - 1, 0) + self.read_tokens
        uncounted = self.guide_tokens > 0 and self.guide_flops == 0  # by a guide of the user's own
        if not read or flops_per_token is None or uncounted or math.isnan(self.guide_flops):
            return None
        return self.guide_flops / (read * flops_per_token)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False, weakref_slot=True)
class Hypothesis:
    """A partial answer: an immutable node of the tree of chunks that grows from one prompt.

    Nodes are compared by identity, and extended rather than copied or mutated. Caches and scores
    can thus be stored in weak mappings under the node itself, and are freed with it. What a search
    asks at every step (``origin``, ``n_chars``, ``text_from``, ``identity``, ``common_ancestor``)
    does not walk to the root; ``response``, ``response_ids`` and ``path`` do.

    Attributes:
        prompt: The prompt at the root.
        parent: The hypothesis that this one continues; None for the root.
        text: The text of this chunk alone. It never ends inside a character: the tokens of an
            incomplete one stay in ``pending``.
        token_ids: The proposer's token ids of this chunk, without the end token; None if the
            proposer returns only text.
        pending: The last token ids of the path, which are not decoded to text yet.
        finish_reason: "eos" (the model ended its turn), "stop" (a stop string was generated),
            "length" (``max_tokens`` was reached), or None while it can be continued.
        vocabulary: Fingerprint of the vocabulary that ``token_ids`` index; None without ids.
        stream: Random stream of this path. The first successor continues its parent's stream and
            the others fork it, so a path of first successors samples the same text for any
            chunk length.
        n_tokens: Tokens on the path from the root, including this chunk.
        logprobs: log p of each token of this chunk under the frozen model, at temperature 1 and
            unfiltered, in nats, the end token's included; None if the proposer does not report it.
        entropies: Entropy of the distribution of each of these tokens, in nats, if chunks end by
            entropy (``Until``); else None.
        drift: Sum of log q(token) - log p(token) over the path, in nats, where q is the
            distribution sampled from and p the same without steering; None without steering, or
            if the proposer does not report it.
        usage: Tokens spent so far on this prompt; shared by the whole tree.
        depth: Number of chunks from the root to here.
        n_chars: Length of the whole text from the root to here.
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
    logprobs: tuple[float, ...] | None = None
    entropies: tuple[float, ...] | None = None
    drift: float | None = None
    usage: Usage = field(default_factory=Usage)
    depth: int = field(init=False)
    n_chars: int = field(init=False)
    _hash: int = field(init=False)
    # None for the root, which would otherwise wait for the garbage collector with its cache.
    _origin: Hypothesis | None = field(init=False)
    _jump: Hypothesis | None = field(init=False)

    def __post_init__(self) -> None:
        parent, origin, jump = self.parent, None, None
        depth = n_chars = hashed = 0
        if parent is not None:
            origin, depth = parent.origin, parent.depth + 1
            n_chars, hashed = parent.n_chars, parent._hash
            # Jumps of growing lengths (Myers, 1983): any ancestor is O(log depth) steps away.
            far = parent.jump
            even = parent.depth - far.depth == far.depth - far.jump.depth
            jump = far.jump if even else parent
        if self.text:
            n_chars += len(self.text)
            own = int.from_bytes(self.text.encode("utf-32-be", "surrogatepass"))
            hashed = (hashed * pow(2, 32 * len(self.text), _MODULUS) + own) % _MODULUS
        put = object.__setattr__
        put(self, "depth", depth)
        put(self, "n_chars", n_chars)
        put(self, "_hash", hashed)
        put(self, "_origin", origin)
        put(self, "_jump", jump)

    @classmethod
    def root(cls, prompt: Prompt | str) -> Hypothesis:
        """Return the empty answer to ``prompt``."""
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
        logprobs: tuple[float, ...] | None = None,
        entropies: tuple[float, ...] | None = None,
        drift: float | None = None,
    ) -> Hypothesis:
        """Return a child of this hypothesis; the class documents the arguments.

        ``n_tokens`` is the token count of this chunk alone, for text without token ids.
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
            logprobs=logprobs,
            entropies=entropies,
            drift=drift,
            usage=self.usage,
        )

    @property
    def origin(self) -> Hypothesis:
        """The empty answer at the root."""
        return self if self._origin is None else self._origin

    @property
    def jump(self) -> Hypothesis:
        """An ancestor far above; the root's is the root itself."""
        return self if self._jump is None else self._jump

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def ended(self) -> bool:
        """Whether the model ended its turn here, as opposed to a limit or a stop string."""
        return self.finish_reason == "eos"

    def ancestors(self) -> Iterator[Hypothesis]:
        """Yield this hypothesis, its parent, and so on up to the root."""
        node: Hypothesis | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def path(self) -> list[Hypothesis]:
        """The hypotheses from the root to this one."""
        return list(self.ancestors())[::-1]

    @property
    def response(self) -> str:
        """The whole text from the root to here."""
        return "".join(node.text for node in self.path)

    @property
    def response_ids(self) -> tuple[int, ...] | None:
        """All token ids of the proposer from the root to here; None if a chunk has none."""
        ids: list[int] = []
        for node in self.path:
            if node.token_ids is None:
                return None
            ids += node.token_ids
        return tuple(ids)

    @property
    def identity(self) -> tuple[int, int, tuple[int, ...], FinishReason | None]:
        """A key that is equal for identical answers: text, pending tokens and finish reason.

        Keys of other processes are other keys.
        """
        return self.n_chars, self._hash, self.pending, self.finish_reason

    def text_from(self, begin: int) -> str:
        """Return the text from a place in ``response`` to its end."""
        texts: list[str] = []
        at = self.n_chars
        for node in self.ancestors():
            if at <= begin:
                break
            texts.append(node.text)
            at -= len(node.text)
        return "".join(reversed(texts))[max(begin - at, 0) :]

    def __repr__(self) -> str:
        return f"Hypothesis({self.response!r}, finish_reason={self.finish_reason!r})"


def common_ancestor(hypotheses: Sequence[Hypothesis]) -> Hypothesis:
    """Return the deepest node that is on the path of every hypothesis of a tree."""
    shared = hypotheses[0]
    for hypothesis in hypotheses[1:]:
        shared = _meeting(shared, hypothesis)
    return shared


def _meeting(a: Hypothesis, b: Hypothesis) -> Hypothesis:
    if a.origin is not b.origin:
        raise ValueError("the hypotheses do not continue the same root")
    a, b = (a, b) if a.depth >= b.depth else (b, a)
    while a.depth > b.depth:
        a = a.jump if a.jump.depth >= b.depth else a.parent or a
    while a is not b:  # nodes of one depth jump equally far
        a, b = (a.jump, b.jump) if a.jump is not b.jump else (a.parent or a, b.parent or b)
    return a
