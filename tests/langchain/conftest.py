from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.llms import BEAM
from w2s_chains import W2SLLM, ChatW2S, HuggingFaceProposer, LogRatioScorer


@pytest.fixture
def frozen_gc() -> Iterator[None]:
    """Makes ``in_memory`` fast: it sees only what is made from now on."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=[W2SLLM, ChatW2S])
def model(request: pytest.FixtureRequest, scorer: LogRatioScorer) -> Any:
    kind = request.param
    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), chat=kind is ChatW2S)
    return kind(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=12, seed=0)
