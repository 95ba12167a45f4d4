from __future__ import annotations

import pytest

from tests.helpers import tiny
from tests.helpers.tools import STRATEGIES, tiny_proposer
from w2s_chains import ChatW2S, GuidePair, HuggingFaceGuide, HuggingFaceProposer, LogRatioScorer


@pytest.fixture
def proposer() -> HuggingFaceProposer:
    return tiny_proposer()


@pytest.fixture
def pair() -> GuidePair:
    base, tokenizer = tiny.llama(320, seed=1, max_position_embeddings=8192), tiny.byte_tokenizer()
    tuned = tiny.noisy(base)
    return GuidePair(HuggingFaceGuide(tuned, tokenizer), HuggingFaceGuide(base, tokenizer))


@pytest.fixture
def chat(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> ChatW2S:
    return ChatW2S(
        proposer=proposer, scorer=scorer, strategy=STRATEGIES[-1], max_tokens=160, seed=0
    )
