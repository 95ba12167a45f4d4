"""``OwnStates``: the recurrent states of models that do not keep them in transformers' layers.

The forward pass of such a model is wrapped: the states of a batch are put where its code looks for
them, and what it leaves there is taken back.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from w2s_chains.backend.kv.layers import Filled, Layers, State, StatePart
from w2s_chains.backend.kv.store import KV, Plane

Held = Sequence[Tensor]
"""The states of all rows, [B, ...] each."""

Run = Callable[..., Any]
"""A forward pass."""


class OwnStates(Protocol):
    """Where the code of an architecture looks for states."""

    def read(
        self, run: Run, model: Any, held: Held | None, options: dict[str, Any]
    ) -> tuple[Any, Held]:
        """Run a forward pass with these options that goes on from states.

        Args:
            run: The model's own forward.
            model: The model.
            held: The states; None before the first token.
            options: The cache among them.

        Returns:
            The model's output, and the states that it has left.
        """
        ...


class _Rwkv:
    """A list of tensors that goes in and comes out."""

    def read(
        self, run: Run, model: Any, held: Held | None, options: dict[str, Any]
    ) -> tuple[Any, Held]:
        del options["past_key_values"]
        ids: Tensor = options.pop("input_ids")
        if len(ids) == 1 or ids.shape[1] > 1:
            output = run(input_ids=ids, state=held and [*held], **options)
            return output, output.state
        # With single tokens in several rows transformers mixes the rows.
        rows = [
            run(
                input_ids=ids[i : i + 1], state=held and [own[i : i + 1] for own in held], **options
            )
            for i in range(len(ids))
        ]
        rows[0].logits = torch.cat([row.logits for row in rows])
        return rows[0], [torch.cat(own) for own in zip(*(row.state for row in rows), strict=True)]


class _XLstm:
    """A cache without layers."""

    def read(
        self, run: Run, model: Any, held: Held | None, options: dict[str, Any]
    ) -> tuple[Any, Held]:
        ids: Tensor = options["input_ids"]
        new = _class_of(model, "xLSTMCache")
        cache = new(model.config, len(ids), dtype=model.dtype, device=ids.device)
        if held is not None:
            for layer, own in cache.rnn_state.items():
                cache.rnn_state[layer] = tuple(held[len(own) * layer :][: len(own)])
        output = run(**{**options, "cache": cache})
        return output, [own for layer in cache.rnn_state.values() for own in layer]


class _MiniMax:
    """A cache of its own around layers of keys and values."""

    def read(
        self, run: Run, model: Any, held: Held | None, options: dict[str, Any]
    ) -> tuple[Any, Held]:
        cache = _class_of(model, "MiniMaxCache")()
        cache.layers = options["cache"].layers
        rest = iter(held or ())
        kinds = model.config.layer_types
        cache.linear_cache = [next(rest, None) if "linear" in kind else None for kind in kinds]
        output = run(**{**options, "cache": cache})
        return output, [own for own in cache.linear_cache if own is not None]


class _RecurrentGemma:
    """Attributes of the model's modules."""

    def read(
        self, run: Run, model: Any, held: Held | None, options: dict[str, Any]
    ) -> tuple[Any, Held]:
        blocks = [own for own in model.modules() if hasattr(own, "conv1d_state")]
        places = [(block, "conv1d_state") for block in blocks]
        places += [(block.rg_lru, "recurrent_states") for block in blocks]

        def leave(held: Held) -> None:
            for i, (module, name) in enumerate(places):
                setattr(module, name, held[i] if held else None)

        leave(held or ())
        output = run(**options)
        found: Held = [getattr(module, name) for module, name in places]
        leave(())
        return output, found


_KINDS: dict[str, OwnStates] = {
    "rwkv": _Rwkv(), "xlstm": _XLstm(), "minimax": _MiniMax(), "recurrent_gemma": _RecurrentGemma(),
}  # fmt: skip

_LEAST = {"rwkv": (0.0, 0.0, 0.0, 0.0, -1e30)}
"""What states are before the first token, where that is not 0."""


def _class_of(model: Any, name: str) -> Any:
    return getattr(sys.modules[type(model).__module__], name)


class OwnLayers(Layers):
    """The layers of such a model."""

    def __init__(self, cache: Cache, model_type: str) -> None:
        """Look at the cache of a model that has read one token."""
        super().__init__(cache)
        held: Held = cast(Any, cache).own
        least = _LEAST.get(model_type, (0.0,) * len(held))
        self.parts = tuple(
            StatePart(layer=0, number=i, kind="recurrent", empty=torch.full_like(own, value))
            for i, (own, value) in enumerate(zip(held, least, strict=True))
        )

    def cache(
        self,
        batch: Filled,
        planes: Sequence[Plane],
        kv: Sequence[KV],
        states: Sequence[State | None],
    ) -> Cache:
        known = any(state is not None for state in states)
        rows = [state or tuple(part.empty for part in self.parts) for state in states]
        held = [torch.cat(own) for own in zip(*rows, strict=True)] if known else None
        return marked(super().cache(batch, planes, kv, [None] * len(states)), held)

    def state(self, cache: Any, row: int) -> State:
        return tuple(own[row : row + 1].clone() for own in cache.own)


def marked(cache: Cache, held: Held | None = None) -> Cache:
    """Return a cache whose states the wrapped forward pass reads and changes."""
    cast(Any, cache).own = held
    return cache


def wrap(model: Any) -> bool:
    """Let a model of such an architecture read caches that are ``marked``; return if it is one.

    The model gets a class of its own, derived from its class, so that copies of it work as well.
    """
    own = _KINDS.get(model.config.model_type)
    kind = cast(Any, type(model))
    if own is None or hasattr(kind, "reads_marked"):
        return own is not None
    read = own.read

    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **options: Any) -> Any:
        cache: Any = options.get("cache", options.get("past_key_values"))
        run: Run = functools.partial(kind.forward, self)
        if not hasattr(cache, "own"):
            return run(*args, **options)
        output, cache.own = read(run, self, cache.own, options)
        return output

    new: dict[str, Any] = {"__module__": kind.__module__, "forward": forward, "reads_marked": True}
    model.__class__ = cast(Any, type)(kind.__name__, (kind,), new)
    return True
