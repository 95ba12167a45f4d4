from __future__ import annotations

import pytest

from tests.helpers.llms import BEAM
from w2s_chains import W2SLLM, HuggingFaceProposer, LogRatioScorer


@pytest.fixture
def llm(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> W2SLLM:
    return W2SLLM(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=12, seed=0)
