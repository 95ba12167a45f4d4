"""``HuggingFaceGuide``: a small Hugging Face model in this process as a guide."""

from __future__ import annotations

from collections.abc import Sequence

from w2s_chains.backend.loading.local_model import LocalModel
from w2s_chains.core.contracts import Guide
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams


class HuggingFaceGuide(LocalModel, Guide):
    """Compute loglikelihoods of partial answers incrementally, reading every accepted token once.

    If the guide has the proposer's vocabulary (compared by content), it reads the proposer's token
    ids. Otherwise it tokenizes the text again and reuses the longest common token prefix.
    """

    # Repeated here since key_of and config_of do not accept inherited ones.
    to_config = LocalModel.to_config
    cache_key = LocalModel.cache_key

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if prompt and answer do not fit in the model's context.

        The answer is counted in the proposer's tokens. A text that has more tokens in this model's
        vocabulary is refused when it is read.
        """
        self._check_length(prompt, sampling.max_tokens, "guide")

    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Return log p(response | prompt) of each hypothesis, in nats.

        The sum runs over the tokens after the longest common prefix of prompt and
        prompt + response, and includes the end token if the hypothesis ended its turn.

        Raises:
            PromptError: A text is longer than the model's context.
        """
        for rows in self.paths.read(hypotheses, scored=True):
            rows.hypothesis.usage.add_guide(rows.number, rows.flops_per_token)
        return [self.paths.loglikelihood(h) for h in hypotheses]
