"""A small Hugging Face model as a guide."""

from __future__ import annotations

from collections.abc import Sequence

from w2s_chains.backend.loading.local_model import LocalModel
from w2s_chains.core.contracts import Guide
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams


class HuggingFaceGuide(LocalModel, Guide):
    """Loglikelihoods of partial answers, incrementally: every accepted token is read once.

    With the proposer's vocabulary (compared by content) the proposer's token ids are read; with
    another one the text is, tokenised anew, and the longest common token prefix is reused.
    """

    # Said here, since a subclass may answer otherwise.
    to_config = LocalModel.to_config
    cache_key = LocalModel.cache_key

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if prompt and answer do not fit into the model's context.

        The answer is counted in the proposer's tokens; a text that turns out longer in this
        model's own is refused when it comes.
        """
        self.tokenizer.check_fits(prompt, sampling.max_tokens, self.lm.max_positions, "guide")

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
