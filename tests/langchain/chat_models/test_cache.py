"""LangChain's cache around a ChatW2S."""

from __future__ import annotations

from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage

from tests.helpers import tiny
from tests.helpers.chats import TALK, texts
from tests.helpers.llms import forwards
from tests.helpers.variants import variants
from w2s_chains import ChatW2S, GuidePair, HuggingFaceProposer, Sampling


def test_two_configurations_never_share_a_cache_entry(
    chat: ChatW2S, pair: GuidePair, proposer: HuggingFaceProposer
) -> None:
    cache = InMemoryCache()
    fields: dict[str, Any] = {name: getattr(chat, name) for name in ChatW2S.model_fields}
    fields["cache"] = cache
    ChatW2S(**fields).invoke(TALK)
    raw = HuggingFaceProposer(proposer.lm.model, tiny.byte_tokenizer())
    entries, kept = 1, []
    changes = {**variants(chat, pair), "without template": {"proposer": raw}}
    for name, changed in changes.items():
        other = ChatW2S(**{**fields, **changed})
        kept.append(other)
        if other.scorer is None:
            other.strategy = Sampling()
        other.invoke(TALK)
        entries += 1
        assert len(cache._cache) == entries, name
    before = forwards(chat)
    assert ChatW2S(**fields).invoke(TALK).content == chat.model_copy().invoke(TALK).content
    assert len(cache._cache) == entries, "control: the same configuration hits"
    used = forwards(chat) - before
    ChatW2S(**fields).invoke(TALK)
    assert forwards(chat) - before == used
    ChatW2S(**fields).invoke([*TALK, AIMessage("x"), HumanMessage("y")])
    assert len(cache._cache) == entries + 1, "other messages are another entry"


def test_per_call_overrides_never_get_a_stale_hit(chat: ChatW2S) -> None:
    cache = InMemoryCache()
    cached = chat.model_copy(update={"cache": cache})
    changes: list[dict[str, Any]] = [
        {}, {"temperature": 0}, {"seed": 4}, {"max_tokens": 4}, {"strategy": Sampling()},
        {"stop": ["e"]}, {"top_k": 2}, {"n": 2},
    ]  # fmt: skip
    fresh = [chat.invoke(TALK, **changed).content for changed in changes]
    for _ in range(2):
        assert [cached.invoke(TALK, **changed).content for changed in changes] == fresh
        assert [cached.bind(**changed).invoke(TALK).content for changed in changes] == fresh
    assert len(cache._cache) == len(changes)
    before = forwards(chat)
    assert [cached.invoke(TALK, **changed).content for changed in changes] == fresh
    assert texts(cached.batch([TALK, TALK])) == fresh[:1] * 2
    assert forwards(chat) == before, "all of them are hits"
    # However it is said, the same settings are the same entry, a configured stop too.
    configured = chat.model_copy(update={"cache": cache, "stop": ("e",)})
    assert configured.invoke(TALK).content == fresh[5]
    mapping = cached.invoke(TALK, strategy={"type": "sampling"})
    assert mapping.content == fresh[4]
    assert len(cache._cache) == len(changes)
    assert configured.invoke(TALK, stop=[]).content == fresh[0]
    cached.invoke(TALK[1:])  # control
    assert forwards(chat) > before
