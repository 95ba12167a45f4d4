"""Memory that models need, estimated before they are loaded, and what is free."""

from __future__ import annotations

from collections.abc import Iterable

from w2s_chains.backend.loading.load import Outline
from w2s_chains.backend.loading.placement import free_bytes
from w2s_chains.doctor.diagnosis import Diagnosis, Effort, LocalFacts, MemoryFacts, size

_SPARE = 257
"""Slots of a store that is hardly used."""


def cache_bytes(
    known: Outline, prompt_tokens: int, max_tokens: int, ratio: float, effort: Effort
) -> int | None:
    """Estimate the most memory for keys, values and states of one prompt, in bytes.

    Args:
        known: The model.
        prompt_tokens: Tokens of the prompt.
        max_tokens: The most tokens of an answer, in the proposer's tokens.
        ratio: Tokens of this model for one of the proposer's.
        effort: What the strategy keeps.
    """
    if known.bytes_per_token is None:
        return None
    stored = 1.5 * (prompt_tokens + effort.kept * ratio) + _SPARE
    longest = prompt_tokens + max_tokens * ratio
    batch = max(min(known.token_budget, effort.rows * longest), longest)
    states = 2 * effort.rows * known.bytes_per_branch
    return round(known.bytes_per_token * (stored + batch)) + states


def add_memory(diagnosis: Diagnosis, facts: Iterable[LocalFacts]) -> None:
    """Add up what each device needs, and tell of what does not fit."""
    by_devices: dict[tuple[str, ...], list[LocalFacts]] = {}
    for one in facts:
        by_devices.setdefault(one.devices, []).append(one)
    for devices, models in by_devices.items():
        weights = _sum(one.weights for one in models if one.shares is None)
        cache = _sum(one.cache for one in models)
        free = _sum(free_bytes(device) for device in devices)
        memory = MemoryFacts(devices=devices, weights=weights, cache=cache, free=free)
        diagnosis.memory.append(memory)
        _judge(diagnosis, memory)


def _judge(diagnosis: Diagnosis, memory: MemoryFacts) -> None:
    if memory.weights is None or memory.free is None:
        return
    where, remedy = ", ".join(memory.devices), "use dtype: bfloat16, a smaller model, or device_map"
    if memory.weights > memory.free:
        diagnosis.tell(
            "failure",
            "memory",
            f"the weights on {where} take {size(memory.weights)}, but {size(memory.free)} are "
            f"free; {remedy}",
        )
    elif memory.weights + (memory.cache or 0) > memory.free:
        diagnosis.tell(
            "warning",
            "memory",
            f"weights and cache on {where} may take {size(memory.weights + (memory.cache or 0))}, "
            f"but {size(memory.free)} are free; lower token_budget, max_tokens or the strategy's "
            "branches: batches are cut smaller as memory runs out, which is slow",
        )


def _sum(values: Iterable[int | None]) -> int | None:
    """Return the sum; None if one is unknown."""
    known = list(values)
    return None if None in known else sum(value or 0 for value in known)
