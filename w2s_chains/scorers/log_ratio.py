"""The value of the paper: how much likelier the tuned guide finds a text than the untuned one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from w2s_chains.asks import SamplingParams
from w2s_chains.contracts import Checks, Guides
from w2s_chains.errors import ScorerError
from w2s_chains.hypothesis import Hypothesis, Prompt
from w2s_chains.scorers.base import ScorerConfig


class LogRatio(ScorerConfig):
    """log p_tuned(y|x) - log p_untuned(y|x) of the guides, in nats (Zhou et al., 2024)."""

    type: Literal["log_ratio"] = "log_ratio"

    @property
    def needs_guides(self) -> bool:
        return True

    def build(self, guides: Guides | None) -> LogRatioScorer:
        assert guides is not None, "the config has checked it"
        return LogRatioScorer(guides)


class LogRatioScorer:
    """log p_tuned(y|x) - log p_untuned(y|x), in nats (Zhou et al., 2024).

    Summed over the tokens of the whole partial answer y, so that siblings of one length compare;
    the end token counts only where the proposer ended its turn.
    """

    def __init__(self, pair: Guides) -> None:
        self.pair = pair

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if one of the guides cannot read the prompt."""
        if isinstance(self.pair, Checks):
            self.pair.check(prompt, sampling)

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [tuned - untuned for tuned, untuned in self.pair.loglikelihoods(hypotheses)]

    def score_texts(
        self,
        prompts: Sequence[str | Prompt],
        responses: Sequence[str],
        ended: Sequence[bool] | None = None,
    ) -> list[float]:
        """Score given texts, without a search: what do my guides like?

        Scored are the tokens after the longest common token prefix of prompt and
        prompt + response.

        Args:
            prompts: One per text.
            responses: The texts.
            ended: Whether each text really ended, so that the end token counts; by default all
                did.

        Returns:
            One log-ratio per text, in nats.

        Raises:
            ScorerError: The arguments have different lengths.
            PromptError: A text is longer than a guide's context.
        """
        ended = [True] * len(responses) if ended is None else ended
        if not len(prompts) == len(responses) == len(ended):
            raise ScorerError(
                f"got {len(prompts)} prompts, {len(responses)} responses and {len(ended)} ended "
                "flags; give one of each per text"
            )
        roots: dict[str | Prompt, Hypothesis] = {}  # a prompt that comes often is read once
        texts = [
            roots.setdefault(prompt, Hypothesis.root(prompt)).extend(
                response, finish_reason="eos" if end else "length"
            )
            for prompt, response, end in zip(prompts, responses, ended, strict=True)
        ]
        return self.score(texts)
