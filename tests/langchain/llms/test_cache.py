"""LangChain's cache around a W2SLLM."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache

from tests.helpers.llms import PROMPT, forwards
from tests.helpers.variants import ByLength, Slotted, variants
from w2s_chains import W2SLLM, GuidePair, Sampling
from w2s_chains.core.contracts import key_of


def test_two_configurations_never_share_a_cache_entry(llm: W2SLLM, pair: GuidePair) -> None:
    cache = InMemoryCache()
    llm.model_copy(update={"cache": cache}).invoke(PROMPT)
    fields: dict[str, Any] = {name: getattr(llm, name) for name in W2SLLM.model_fields}
    fields["cache"] = cache
    entries = len(cache._cache)
    assert entries == 1
    kept = []  # or the id of a part that is gone would be used again, which is tested below
    for name, changed in variants(llm, pair).items():
        other = W2SLLM(**{**fields, **changed})
        kept.append(other)
        if other.scorer is None:
            other.strategy = Sampling()
        other.invoke(PROMPT)
        entries += 1
        assert len(cache._cache) == entries, name
    # Control: the same configuration hits.
    before = forwards(llm)
    assert W2SLLM(**fields).invoke(PROMPT) == llm.model_copy().invoke(PROMPT)
    assert len(cache._cache) == entries
    used = forwards(llm) - before
    kept[0].invoke(PROMPT)
    assert forwards(llm) - before == used


@pytest.mark.parametrize("kind", [ByLength, Slotted])
def test_a_part_made_where_another_died_has_another_name(kind: Any) -> None:
    part = kind(1.0)
    assert key_of(part) == key_of(part)
    assert len({key_of(kind(1.0)) for _ in range(50)}) == 50


def test_per_call_overrides_never_get_a_stale_hit(llm: W2SLLM) -> None:
    cached = llm.model_copy(update={"cache": InMemoryCache()})
    changes: list[dict[str, Any]] = [
        {}, {"temperature": 0}, {"seed": 4}, {"max_tokens": 4}, {"strategy": Sampling()},
        {"stop": ["e"]}, {"top_k": 2},
    ]  # fmt: skip
    fresh = [llm.invoke(PROMPT, **changed) for changed in changes]
    for _ in range(2):
        assert [cached.invoke(PROMPT, **changed) for changed in changes] == fresh
        assert [cached.bind(**changed).invoke(PROMPT) for changed in changes] == fresh
    before = forwards(llm)
    assert [cached.invoke(PROMPT, **changed) for changed in changes] == fresh
    assert cached.batch([PROMPT]) == fresh[:1]
    assert forwards(llm) == before, "all of them are hits"
    cached.invoke("The movie was grea")  # control
    assert forwards(llm) > before


def test_a_configured_stop_and_the_same_stop_in_a_call_are_one_entry(llm: W2SLLM) -> None:
    cache = InMemoryCache()
    configured = llm.model_copy(update={"cache": cache, "stop": ("e",)})
    answer = configured.invoke(PROMPT)
    plain = llm.model_copy(update={"cache": cache})
    assert plain.invoke(PROMPT, stop=["e"]) == answer
    assert len(cache._cache) == 1
    assert plain.invoke(PROMPT) == llm.invoke(PROMPT)
    assert len(cache._cache) == 2
