"""A model in this process with its tokenizer, template and what it has read: the base of parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self, TypeVar

from w2s_chains.backend.lm.causal_lm import DEFAULT_TOKEN_BUDGET, CausalLM
from w2s_chains.backend.lm.paths import Paths
from w2s_chains.backend.loading.load import load, share, tokens
from w2s_chains.backend.loading.spec import Model
from w2s_chains.backend.text.template import PromptTemplate
from w2s_chains.backend.text.tokenizer import Tokenizer


class LocalModel:
    """Shared by the Hugging Face proposer and guide.

    Attributes:
        lm: The model.
        tokenizer: Its tokenizer and prompt template.
        paths: What it has read.
        spec: What it was loaded from; None if it was built by hand.
    """

    lm: CausalLM
    tokenizer: Tokenizer
    paths: Paths
    spec: Model | None

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
        """Wrap a loaded model and its tokenizer; for the options see ``Model``.

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
            **options: Fields of ``Model``: template, chat, system, device, device_map, dtype,
                quantization_config, attn_implementation, revision, token_budget.

        Raises:
            ModelNotFoundError: The reference leads nowhere.
            UnsupportedModelError: The model's cache cannot branch.
            pydantic.ValidationError: An option is misspelt or out of range.
        """
        return cls.from_spec(Model(model=model, **options))

    @classmethod
    def from_spec(cls, spec: Model) -> Self:
        """Load what ``spec`` describes; raises like ``from_pretrained``."""
        self = cls.__new__(cls)
        self._adopt(*load(spec), spec)
        return self

    @classmethod
    def sharing(cls, other: LocalModel, spec: Model) -> Self:
        """Read what ``spec`` describes with the weights of ``other``, which are not loaded again.

        Args:
            other: A model with the weights that ``spec`` names.
            spec: Whose template, adapter and budget count.

        Raises:
            ConfigError: The package peft is missing, or the adapter is for another model.
            ModelNotFoundError: There is no such adapter.
            UnsupportedModelError: The adapter cannot be on in some rows and off in others.
        """
        self = cls.__new__(cls)
        self._adopt(*share(other.lm, other.tokenizer, spec), spec)
        return self

    def _adopt(self, lm: CausalLM, tokenizer: Tokenizer, spec: Model | None) -> None:
        self.lm, self.tokenizer, self.spec = lm, tokenizer, spec
        self.paths = Paths(lm, tokenizer)


L = TypeVar("L", bound=LocalModel)


class Loader:
    """Loads models; parts whose specs name the same weights share them."""

    def __init__(self) -> None:
        self._parts: list[LocalModel] = []

    def __call__(self, part: type[L], spec: Model) -> L:
        """The part for ``spec``; raises like ``LocalModel.from_pretrained``."""
        like: LocalModel | None = None
        for other in self._parts:
            if type(other) is part and other.spec == spec:
                return other
            if other.spec is not None and other.spec.weights == spec.weights:
                like = other
        loaded = part.from_spec(spec) if like is None else part.sharing(like, spec)
        self._parts.append(loaded)
        return loaded

    def keep(self, specs: Iterable[Model]) -> None:
        """Drop what has other weights than these."""
        wanted = {spec.weights for spec in specs}
        self._parts = [p for p in self._parts if p.spec is not None and p.spec.weights in wanted]
