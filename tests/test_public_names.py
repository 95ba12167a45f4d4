"""What the package promises: change these names on purpose only, and say so in CHANGELOG.md."""

from __future__ import annotations

import pytest

import w2s_chains

NAMES = [
    "Ask",
    "BaseGuidePair",
    "BestOfN",
    "CallFormat",
    "CallableScorer",
    "CancelledError",
    "ChatW2S",
    "ChunkBeamSearch",
    "Commit",
    "Committed",
    "ConfigError",
    "Constraint",
    "ConstraintError",
    "EmulatedFineTuning",
    "Engine",
    "Event",
    "Expand",
    "Failed",
    "Finished",
    "Guide",
    "GuidePair",
    "Guides",
    "HuggingFaceGuide",
    "HuggingFaceProposer",
    "Hypothesis",
    "Job",
    "LLMJudgeConfig",
    "LangChainConfig",
    "LangChainProposer",
    "LogRatioConfig",
    "LogRatioScorer",
    "LoglikelihoodConfig",
    "LoglikelihoodScorer",
    "Message",
    "MixtureConfig",
    "MixturePart",
    "MixtureScorer",
    "Model",
    "ModelNotFoundError",
    "OpenAIConfig",
    "OpenAIProposer",
    "OutOfMemoryError",
    "Parts",
    "Progressed",
    "Prompt",
    "PromptError",
    "Proposer",
    "ProposerConfig",
    "ProposerError",
    "RemoteGuide",
    "RemoteGuideConfig",
    "Reward",
    "RewardModelConfig",
    "RewardModelScorer",
    "RunnableScorer",
    "Sampling",
    "SamplingParams",
    "Score",
    "Scored",
    "Scorer",
    "ScorerConfig",
    "ScorerError",
    "Search",
    "SearchHandle",
    "SearchStrategy",
    "ServerError",
    "StrategyError",
    "Tool",
    "ToolCall",
    "UnsupportedModelError",
    "W2SError",
    "W2SLLM",
    "commit",
    "common_ancestor",
    "compare",
    "distinct",
    "drive",
    "expand",
    "load",
    "score",
    "top",
]


def test_the_public_names_are_pinned() -> None:
    added = sorted(set(w2s_chains.__all__) - set(NAMES))
    gone = sorted(set(NAMES) - set(w2s_chains.__all__))
    assert (added, gone) == ([], []), "say so in CHANGELOG.md, and change NAMES"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves_and_is_ours(name: str) -> None:
    value = getattr(w2s_chains, name)
    assert value is not None
    if isinstance(value, type):
        assert value.__name__ == name
        assert value.__module__.startswith("w2s_chains.")
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'W2SLlm'"):
        w2s_chains.W2SLlm  # noqa: B018
    assert not hasattr(w2s_chains, "torch")


def test_the_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert w2s_chains.__version__ == version("w2s_chains")


def test_every_error_is_one_of_ours() -> None:
    from w2s_chains import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 8
    assert all(issubclass(kind, w2s_chains.W2SError) for kind in kinds)
