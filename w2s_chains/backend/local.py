"""A model in this process with its tokenizer, template and what it has read: the base of parts."""

from __future__ import annotations

from typing import Any, Self

from w2s_chains.backend.causal_lm import DEFAULT_TOKEN_BUDGET, CausalLM
from w2s_chains.backend.loading import ModelSpec, load, tokens
from w2s_chains.backend.paths import Paths
from w2s_chains.backend.text import PromptTemplate, TextTokens


class LocalModel:
    """Shared by the Hugging Face proposer and guide.

    Attributes:
        lm: The model.
        text: Its tokenizer and prompt template.
        paths: What it has read.
        spec: What it was loaded from; None if it was built by hand.
    """

    lm: CausalLM
    text: TextTokens
    paths: Paths
    spec: ModelSpec | None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        template: str = "{prompt}",
        chat: bool = False,
        system: str | None = None,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
    ) -> None:
        """Wrap a loaded model and its tokenizer; for the options see ``ModelSpec``.

        Raises:
            UnsupportedModelError: The model's cache cannot branch.
        """
        how = PromptTemplate(template=template, chat=chat, system=system)
        self._adopt(CausalLM(model, token_budget), tokens(model, tokenizer, how), None)

    @classmethod
    def from_pretrained(cls, model: str, **options: Any) -> Self:
        """Load a model.

        Args:
            model: Hub id, local folder, GGUF file, or ``embedded:NAME``.
            **options: Fields of ``ModelSpec``: template, chat, system, device, device_map, dtype,
                quantization_config, attn_implementation, revision, token_budget.

        Raises:
            ModelNotFoundError: The reference leads nowhere.
            UnsupportedModelError: The model's cache cannot branch.
            pydantic.ValidationError: An option is misspelt or out of range.
        """
        return cls.from_spec(ModelSpec(model=model, **options))

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> Self:
        """Load what ``spec`` describes; raises like ``from_pretrained``."""
        self = cls.__new__(cls)
        self._adopt(*load(spec), spec)
        return self

    def _adopt(self, lm: CausalLM, text: TextTokens, spec: ModelSpec | None) -> None:
        self.lm, self.text, self.spec = lm, text, spec
        self.paths = Paths(lm, text)
