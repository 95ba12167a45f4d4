"""A small Hugging Face model as a guide."""

from __future__ import annotations

from collections.abc import Sequence

from w2s_chains.asks import SamplingParams
from w2s_chains.backend.local import LocalModel
from w2s_chains.hypothesis import Hypothesis, Prompt


class HuggingFaceGuide(LocalModel):
    """Loglikelihoods of partial answers, incrementally: every accepted token is read once.

    With the proposer's vocabulary (compared by content) the proposer's token ids are read; with
    another one the text is, tokenised anew, and the longest common token prefix is reused.
    """

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if the prompt does not fit into the model's context.

        How many tokens an answer will have is known only in the proposer's vocabulary; a longer
        text is refused when it comes.
        """
        self.text.check_fits(prompt, 1, self.lm.max_positions, "guide")

    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Log p(response | prompt) of each hypothesis, in nats.

        Summed over the tokens after the longest common prefix of prompt and prompt + response; one
        that ended its turn counts its end token too.

        Raises:
            PromptError: A text is longer than the model's context.
        """
        for hypothesis, count in self.paths.read(hypotheses, scored=True):
            hypothesis.usage.guide_tokens += count
        return [self.paths.loglikelihood(h) for h in hypotheses]
