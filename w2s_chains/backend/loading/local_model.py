"""``LocalModel``, the base of the Hugging Face proposer and guide, and ``Loader``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal, Self, TypeVar, Unpack

from w2s_chains.backend.chat.prompt_template import PromptTemplate, TemplateVariables
from w2s_chains.backend.lm import DEFAULT_TOKEN_BUDGET
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.paths import Paths
from w2s_chains.backend.loading.config import Model, ModelFields
from w2s_chains.backend.loading.load import load, share, tokens
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.contracts import Contract, by_hand, unique_key
from w2s_chains.core.prompts import Prompt


class LocalModel(Contract):
    """A model in this process with its tokenizer, its template and the tokens it has read.

    Attributes:
        lm: The model.
        tokenizer: Its tokenizer and prompt template.
        paths: The hypotheses it has read.
        spec: The ``Model`` it was loaded from; None if it was wrapped by hand.
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
        chat: bool | Literal["auto"] = False,
        system: str | None = None,
        chat_template_kwargs: TemplateVariables | None = None,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
        cuda_graphs: bool = False,
    ) -> None:
        """Wrap a loaded model and its tokenizer; see ``Model`` for the options.

        Raises:
            UnsupportedModelError: The model's cache cannot branch, or its decode steps cannot be
                recorded.
        """
        how = PromptTemplate(
            template=template,
            chat=chat,
            system=system,
            chat_template_kwargs=chat_template_kwargs or {},
        )
        self._adopt(CausalLM(model, token_budget, cuda_graphs), tokens(model, tokenizer, how), None)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        adapter: str | os.PathLike[str] | None = None,
        **options: Unpack[ModelFields],
    ) -> Self:
        """Load a model.

        Args:
            model: Hub id, local folder, GGUF file, or ``embedded:NAME``.
            adapter: A LoRA adapter for the model: hub id or local folder.
            **options: The other fields of ``Model``: template, chat, system, device, ...

        Raises:
            ModelNotFoundError: The model cannot be found.
            UnsupportedModelError: The model's cache cannot branch.
            ConfigError: An option is misspelt or out of range.
        """
        return cls.from_spec(Model(model, adapter=adapter, **options))

    @classmethod
    def from_spec(cls, spec: Model) -> Self:
        """Load the model that ``spec`` describes; raises like ``from_pretrained``."""
        self = cls.__new__(cls)
        self._adopt(*load(spec), spec)
        return self

    @classmethod
    def sharing(cls, other: LocalModel, spec: Model) -> Self:
        """Build the model that ``spec`` describes with the weights of ``other``, without loading.

        Args:
            other: A model with the weights that ``spec`` names.
            spec: Sets the template, the adapter and the token budget.

        Raises:
            ConfigError: The package peft is missing, or the adapter belongs to another model.
            ModelNotFoundError: There is no such adapter.
            UnsupportedModelError: The adapter cannot be on in some rows of a batch and off in
                others.
        """
        self = cls.__new__(cls)
        self._adopt(*share(other.lm, other.tokenizer, spec), spec)
        return self

    @property
    def max_positions(self) -> int | None:
        """The most tokens of prompt and answer together; None if the model has no limit."""
        return self.lm.max_positions

    @property
    def flops_per_token(self) -> float:
        """Estimated FLOPs to read one token; see ``Paths``."""
        return self.paths.flops_per_token

    def _check_length(self, prompt: Prompt, more: int, role: str) -> None:
        """Check that the prompt and ``more`` tokens can be read.

        Raises:
            PromptError: They do not fit into the model's context, or a text may grow from a length
                that the model reads in one way to one that it reads in another.
        """
        self.tokenizer.check_fits(prompt, more, self.lm.max_positions, role)
        count = len(self.tokenizer.prompt_ids(prompt))
        self.lm.check_border(count, count + more)

    def cache_key(self) -> str:
        """Return the class and ``spec`` as text; unique for a model wrapped by hand."""
        if self.spec is None:
            return unique_key(self)
        return f"{type(self).__name__}({self.spec.model_dump(exclude_defaults=True)})"

    def to_config(self) -> Model:
        """Return the ``Model`` that this was loaded from, with ``chat`` set explicitly.

        Raises:
            ConfigError: The model was wrapped by hand.
        """
        if self.spec is None:
            raise by_hand(self, self.role)
        return self.spec.model_copy(update={"chat": self.spec.chat})  # marks chat as set

    def _adopt(self, lm: CausalLM, tokenizer: Tokenizer, spec: Model | None) -> None:
        self.lm, self.tokenizer, self.spec = lm, tokenizer, spec
        self.paths = Paths(lm, tokenizer)


L = TypeVar("L", bound=LocalModel)


class Loader:
    """Load models; those whose specs name the same weights share them."""

    def __init__(self) -> None:
        self._parts: list[LocalModel] = []

    def __call__(self, part: type[L], spec: Model) -> L:
        """Return the part for ``spec``; raises like ``LocalModel.from_pretrained``."""
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
        """Drop all models except those that share weights with ``specs``."""
        wanted = {spec.weights for spec in specs}
        self._parts = [p for p in self._parts if p.spec is not None and p.spec.weights in wanted]
