from __future__ import annotations

import pytest

from tests.helpers import tiny
from tests.helpers.llms import BEAM
from w2s_chains import ChatW2S, HuggingFaceProposer, LogRatioScorer


@pytest.fixture
def proposer() -> HuggingFaceProposer:
    return HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), chat=True)


@pytest.fixture
def chat(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> ChatW2S:
    return ChatW2S(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=12, seed=0)
