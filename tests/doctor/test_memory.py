"""The estimate of a cache holds in a real search, and is no more than a few times too high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.doctor.conftest import Write
from w2s_chains import CallableScorer, load
from w2s_chains.doctor import diagnose
from w2s_chains.doctor.diagnosis import Diagnosis, LocalFacts
from w2s_chains.doctor.memory import add_memory, size


@pytest.mark.parametrize(
    "strategy",
    [
        {"type": "chunk_beam", "width": 4, "successors": 4, "chunk_tokens": 8},
        {"type": "best_of_n", "n": 8},
        {"type": "token_search", "candidates": 8},
    ],
    ids=lambda strategy: strategy["type"],
)
def test_the_estimate_of_a_cache_holds(write: Write, strategy: dict[str, Any]) -> None:
    path = write(strategy=strategy, generation={"max_tokens": 120, "seed": 0}, guides=None)
    path.write_text(path.read_text() + "scorer: {type: loglikelihood}\n")
    found = diagnose(path, "The film was", load=False)
    [facts] = found.local
    held: list[int] = []

    def value(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        memory = llm.proposer.lm.memory
        store = memory._store and memory._store()
        batches = [batch for ref in memory._last if (batch := ref()) is not None]
        columns = [kv[0].shape[2] * kv[0].shape[3] for batch in batches for kv in batch.kv[:1]]
        held.append(((store.capacity if store else 0) + sum(columns)) * memory.bytes_per_token)
        return [float(len(text)) for text in texts]

    llm: Any = load(path, scorer=CallableScorer(value))
    llm.invoke("The film was")
    assert facts.cache is not None
    assert max(held) <= facts.cache <= 12 * max(held), (held, facts.cache)


def facts(weights: int, cache: int, shares: str | None = None) -> LocalFacts:
    return LocalFacts(
        role="proposer", model="x", devices=("cpu",), dtype="float32", parameters=1,
        weights=weights, cache_per_token=1, cache=cache, context=10, vocabulary=10,
        rendered=None, fetched=True, shares=shares,
    )  # fmt: skip


def judged(*models: LocalFacts) -> list[tuple[str, str]]:
    diagnosis = Diagnosis(config="x")
    add_memory(diagnosis, models)
    return [(one.level, one.text) for one in diagnosis.findings]


def test_what_does_not_fit_is_told() -> None:
    [(level, text)] = judged(facts(10**15, 1))
    assert level == "failure"
    assert "1,000,000 GB" in text
    [(level, text)] = judged(facts(10**6, 10**15))
    assert level == "warning"
    assert "token_budget" in text
    assert judged(facts(10**6, 10**6), facts(10**15, 1, shares="proposer")) == [], "held once"


def test_sizes_are_for_people() -> None:
    assert [size(n) for n in (None, 999, 1500, 538_060_032, 14_480_000_000)] == [
        "unknown", "999 bytes", "1.5 kB", "538 MB", "14.5 GB",
    ]  # fmt: skip
