"""One Hugging Face causal language model: the owner of its forward passes and of its memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from w2s_chains.backend.kv import Batch, Plane, Segment
from w2s_chains.errors import OutOfMemoryError, UnsupportedModelError

DEFAULT_TOKEN_BUDGET = 16_384
"""Columns of one batch: rows times the longest row, cached tokens included."""

_LOGITS_PER_PASS = 2**25
"""Logits of one forward pass: they are made for this many (row, position, token) at once, so that
memory does not grow with the length of the text times the vocabulary. 128 MB in float32."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Counters:
    """What a model has done so far; for tests and benchmarks."""

    forwards: int = 0
    tokens_read: int = 0
    prefills: int = 0


@dataclass(slots=True, kw_only=True)
class Reading:
    """A segment to be read, after its parent.

    Attributes:
        segment: Gets its keys and values, and its ``logprobs`` if it is scored.
        scored: Whether the log-probabilities of its own tokens are wanted.
        end_id: The end token, if the text ended here; nothing can follow then.
        end_logprob: log p(end token) after the segment, in nats; set by the reading.
    """

    segment: Segment
    scored: bool = True
    end_id: int | None = None
    end_logprob: float = 0.0

    @property
    def begin(self) -> int:
        """Position of the first token that is fed."""
        return self.segment.kv_start

    @property
    def count(self) -> int:
        """Tokens that are fed: up to the last but one, and the last if the end comes after it."""
        return self.segment.end - (self.end_id is None) - self.begin

    @property
    def cost(self) -> int:
        return self.segment.end


def check_branchable(config: Any) -> None:
    """Refuse models whose cache cannot be cut into slices and put together again.

    Raises:
        UnsupportedModelError: A layer keeps a sliding window, a recurrent state, or the like.
    """
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    if other := sorted(kind.__name__ for kind in kinds if kind is not DynamicLayer):
        raise _cannot_branch(config, f"its cache has layers of type {', '.join(other)}")


def _cannot_branch(config: Any, why: str) -> UnsupportedModelError:
    name = getattr(config, "_name_or_path", "") or getattr(config, "model_type", "?")
    return UnsupportedModelError(
        f"model {name!r} cannot branch: {why}, but a search needs keys and values of every token "
        "(full attention); use a model without sliding-window, chunked or recurrent layers, or "
        "switch the window off in its config (sliding_window: null) if your texts are shorter"
    )


class CausalLM:
    """A model and the passes a search needs: reading segments, and decoding batches.

    Not thread-safe: the engine's model thread is its only user.
    """

    def __init__(self, model: PreTrainedModel, token_budget: int = DEFAULT_TOKEN_BUDGET) -> None:
        """Wrap a loaded model.

        Args:
            model: Any ``AutoModelForCausalLM`` with full attention.
            token_budget: Most columns of one batch; halved whenever memory runs out.

        Raises:
            UnsupportedModelError: The cache of this model cannot branch.
        """
        if getattr(model, "_is_stateful", False):
            raise _cannot_branch(model.config, "it keeps a recurrent state")
        check_branchable(model.config)
        if "flash" in (attention := str(getattr(model.config, "_attn_implementation", ""))):
            raise UnsupportedModelError(
                f"attn_implementation {attention!r} takes no padding between cached and new "
                "tokens, which batches of unequal texts have; use 'sdpa', which runs flash kernels "
                "where it can, or 'eager'"
            )
        self.model = model.eval()
        self.token_budget = token_budget
        self.counters = Counters()
        self.device: torch.device = model.get_input_embeddings().weight.device  # type: ignore[assignment]
        parameters = inspect.signature(model.forward).parameters
        self._optional = {"logits_to_keep", "position_ids"} & parameters.keys()
        self.planes = self._find_planes()

    @property
    def max_positions(self) -> int | None:
        """Longest text the model can read, in tokens; None if its config does not say."""
        config = self.model.config.get_text_config(decoder=True)
        return getattr(config, "max_position_embeddings", None)

    @torch.inference_mode()
    def _find_planes(self) -> list[Plane]:
        """Read one token, and see how keys and values are laid out."""
        cache = DynamicCache()
        one = torch.zeros((1, 1), dtype=torch.long, device=self.device)
        self.model(input_ids=one, past_key_values=cache, use_cache=True)
        layers: dict[tuple[Any, ...], list[int]] = {}
        for i, layer in enumerate(cache.layers):
            if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
                raise _cannot_branch(self.model.config, "it does not fill an ordinary cache")
            k, v = layer.keys, layer.values  # [1, H, 1, D]
            layers.setdefault((k.shape[1], k.shape[3], v.shape[3], k.dtype, k.device), []).append(i)
        if not layers:
            raise _cannot_branch(self.model.config, "it keeps no keys and values")
        return [
            Plane(
                layers=tuple(indices),
                heads=heads,
                key_dim=key_dim,
                value_dim=value_dim,
                dtype=dtype,
                device=device,
            )
            for (heads, key_dim, value_dim, dtype, device), indices in layers.items()
        ]

    def gather(self, paths: Sequence[tuple[Segment | None, int]], room: int) -> Batch:
        """A batch of positions [0, upto) of each (segment, upto), with ``room`` columns to fill."""
        return Batch(self.planes, paths, room, self.device)

    def forward(
        self, batch: Batch, ids: Tensor, valid: Tensor | None = None, last_only: bool = False
    ) -> Tensor:
        """Read the next columns of a batch.

        Args:
            batch: Gets the keys and values of the columns.
            ids: Tokens. [B, n]
            valid: 1 for tokens, 0 for padding on the right; None if all are tokens. [B, n]
            last_only: Make logits for the last column alone.

        Returns:
            Logits in float32. [B, n, V], or [B, 1, V] with ``last_only``
        """
        rows, count = ids.shape
        end = batch.filled + count
        batch.mask[:, batch.filled : end] = 1 if valid is None else valid
        options: dict[str, Any] = {}
        if "position_ids" in self._optional:
            options["position_ids"] = batch.positions(count)
        if last_only and "logits_to_keep" in self._optional:
            options["logits_to_keep"] = 1
        logits = self.model(
            input_ids=ids,
            attention_mask=batch.mask[:, :end],
            past_key_values=batch.cache,
            use_cache=True,
            **options,
        ).logits
        batch.filled = end
        self.counters.forwards += 1
        self.counters.tokens_read += rows * count
        return (logits[:, -1:] if last_only else logits).float()

    @torch.inference_mode()
    def read(self, readings: Sequence[Reading]) -> None:
        """Read segments whose parents are read: keys and values, and log-probabilities if scored.

        Raises:
            OutOfMemoryError: One segment alone does not fit.
        """
        self.counters.prefills += sum(r.segment.parent is None for r in readings)
        for scored in (False, True):
            self.in_batches(
                [r for r in readings if r.scored is scored], lambda r: r.cost, self._read_batch
            )

    def _read_batch(self, readings: Sequence[Reading]) -> list[None]:
        count = max(r.count for r in readings)
        batch = self.gather([(r.segment.parent, r.begin) for r in readings], room=count)
        first = batch.filled
        fed, targets, valid = (
            torch.zeros((len(readings), count), dtype=torch.long) for _ in range(3)
        )
        for row, r in enumerate(readings):
            if r.segment.parent is None or r.begin == r.segment.start:
                tokens = list(r.segment.ids)
            else:
                tokens = [_token_at(r.segment.parent, r.begin), *r.segment.ids]
            if r.end_id is not None:
                tokens.append(r.end_id)
            fed[row, : r.count] = torch.tensor(tokens[: r.count])
            targets[row, : r.count] = torch.tensor(tokens[1 : r.count + 1])
            valid[row, : r.count] = 1
        fed, targets, valid = (t.to(self.device) for t in (fed, targets, valid))
        scored = readings[0].scored
        logprobs = torch.zeros((len(readings), count), device=self.device)
        vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
        width = max(1, _LOGITS_PER_PASS // (len(readings) * vocabulary)) if scored else count
        for at in range(0, count, max(width, 1)):
            columns = slice(at, at + width)
            logits = self.forward(batch, fed[:, columns], valid[:, columns], last_only=not scored)
            if scored:  # log p = logit - logsumexp, [B, n]
                chosen = logits.gather(2, targets[:, columns].to(logits.device).unsqueeze(2))
                logprobs[:, columns] = (chosen.squeeze(2) - logits.logsumexp(2)).to(self.device)
        for row, (r, values) in enumerate(zip(readings, logprobs.tolist(), strict=True)):
            values = values[: r.count]
            if r.end_id is not None:
                r.end_logprob = values.pop()
            else:
                r.segment.kv = batch.slice(row, first, r.count)
            if scored:
                # Nothing predicts the token at position 0.
                unpredicted = [0.0] if r.segment.start == 0 else []
                r.segment.logprobs = tuple(unpredicted + values)
        self.counters.tokens_read -= sum(count - r.count for r in readings)  # padding
        return [None] * len(readings)

    def in_batches(
        self, items: Sequence[T], cost: Callable[[T], int], run: Callable[[list[T]], list[R]]
    ) -> list[R]:
        """Run items in batches of at most ``token_budget`` columns; results in the items' order.

        Items of like cost go together, so that little is padded. When memory runs out the budget
        is halved for good and the batch is tried again.

        Raises:
            OutOfMemoryError: One item alone does not fit.
        """
        order = sorted(range(len(items)), key=lambda i: cost(items[i]))
        results: dict[int, R] = {}
        at = 0
        while at < len(order):
            size = 1
            while at + size < len(order) and (
                (size + 1) * cost(items[order[at + size]]) <= self.token_budget
            ):
                size += 1
            indices = order[at : at + size]
            try:
                outcome = run([items[i] for i in indices])
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._shrink(size * max(cost(items[i]) for i in indices), size, error)
                continue
            results.update(zip(indices, outcome, strict=True))
            at += size
        return [results[i] for i in range(len(items))]

    def _shrink(self, columns: int, rows: int, error: BaseException) -> None:
        if rows == 1:
            raise OutOfMemoryError(
                f"one row of {columns} tokens does not fit into the memory of {self.device}; "
                "shorten the prompt or max_tokens, or load the models in a smaller dtype"
            ) from error
        self.token_budget = min(self.token_budget, columns) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _token_at(segment: Segment, position: int) -> int:
    """The token at a position of the path that ends with ``segment``."""
    node: Segment | None = segment
    while node is not None and position < node.start:
        node = node.parent
    assert node is not None
    return node.ids[position - node.start]


def _out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
