"""Models that judge whole texts: sequence classifiers, and decoders with a value head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
)

from w2s_chains.backend.locating import check_complete, check_safe, clear_errors_of, locate
from w2s_chains.backend.spec import ModelName, Placement, device_of, options_of
from w2s_chains.errors import ConfigError, PromptError
from w2s_chains.hypothesis import Prompt
from w2s_chains.plugins import did_you_mean


class JudgeOptions(Placement):
    """Which model judges, and how it reads a text.

    Attributes:
        model: Hub id or local folder, with safetensors.
        tokenizer: Where its tokenizer is, if it is not with the model.
        chat: Render prompt and answer as two turns of the tokenizer's chat template.
        batch_size: Texts that are read at once.
        max_length: Longest text, in tokens; by default what tokenizer and model allow.
        truncate: Which end of a longer text is cut off; by default such a text is an error.
    """

    model: ModelName
    tokenizer: ModelName | None = None
    chat: bool = False
    batch_size: int = Field(default=8, ge=1)
    max_length: int | None = Field(default=None, ge=1)
    truncate: Literal["left", "right"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueHeadWeights:
    """Where the weights of a decoder with a value head are in its files.

    Attributes:
        head: Name of the head's tensor. [1, D]
        body: What the names of the decoder's weights begin with; None for transformers' own.
    """

    head: str
    body: str | None


class Judge:
    """A loaded model that judges whole texts; make one with ``load_judge``."""

    def __init__(self, model: Any, tokenizer: Any, options: JudgeOptions, reads_last: bool) -> None:
        """Wrap a model.

        Args:
            model: An ``AutoModelForSequenceClassification``.
            tokenizer: Its tokenizer.
            options: How it reads.
            reads_last: Read the head at the last token, whatever that is; otherwise the model's
                own way holds, which for decoders may be the last one that is no padding token.
        """
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.options = options
        self.reads_last = reads_last
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.limit = _limit(model.config, tokenizer, options)

    def text_ids(self, text: str) -> list[int]:
        """Tokens of a text, special ones included.

        Raises:
            PromptError: It is empty, or too long and not to be truncated.
        """
        return self._checked(self.tokenizer(text, verbose=False, **self._truncation)["input_ids"])

    def chat_ids(self, prompt: Prompt, answer: str, ended: bool = True) -> list[int]:
        """Tokens of the prompt's turns and one of the assistant, which is closed if it ended.

        Raises:
            PromptError: The text is empty or too long, or the template refuses the prompt.
        """
        turns = [{"role": turn.role, "content": turn.plain_text} for turn in prompt.turns]
        turns.append({"role": "assistant", "content": answer})
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns,
                tokenize=True,
                return_dict=True,
                sanitize_control_tokens=True,
                continue_final_message=not ended,
                **self._truncation,
            )
        except Exception as error:  # templates raise whatever they like
            raise PromptError(
                f"the chat template of {self.options.model!r} refuses the conversation "
                f"({', '.join(turn['role'] for turn in turns)}): {error}; change the messages, or "
                "set chat to false"
            ) from error
        return self._checked(rendered["input_ids"])

    @property
    def _truncation(self) -> dict[str, Any]:
        if self.options.truncate is None:
            return {}
        return {"truncation": True, "max_length": self.limit}

    def _checked(self, ids: list[int]) -> list[int]:
        name = self.options.model
        if not ids:
            raise PromptError(f"the text is empty, and model {name!r} has no token for that")
        if len(ids) > self.limit:
            raise PromptError(
                f"the text has {len(ids)} tokens, but model {name!r} reads at most {self.limit}; "
                "give fewer max_tokens, or set truncate to 'left' or 'right' for this model"
            )
        return ids

    def logits(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """The model's outputs for each text, one per label."""
        found: dict[int, list[float]] = {}
        by_length = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        # Without a padding token a model cannot tell where a padded text ends.
        size = self.options.batch_size if self.reads_last or self._pad_id is not None else 1
        for start in range(0, len(texts), size):
            rows = by_length[start : start + size]
            values = self._read([texts[i] for i in rows])  # [B, labels]
            found.update(zip(rows, values.tolist(), strict=True))
        return [found[i] for i in range(len(texts))]

    @property
    def _pad_id(self) -> int | None:
        return self.model.config.get_text_config().pad_token_id

    @torch.inference_mode()
    def _read(self, texts: Sequence[Sequence[int]]) -> Tensor:
        lengths = torch.tensor([len(ids) for ids in texts], device=self.device)  # [B]
        longest = max(len(ids) for ids in texts)
        pad = self._pad_id or 0
        padded = [[*ids, *[pad] * (longest - len(ids))] for ids in texts]  # on the right
        tokens = torch.tensor(padded, device=self.device)  # [B, T]
        mask = (torch.arange(longest, device=self.device) < lengths[:, None]).long()  # [B, T]
        if not self.reads_last:
            return self.model(input_ids=tokens, attention_mask=mask).logits.float()  # [B, labels]
        body = self.model.base_model
        states = body(tokens, attention_mask=mask, use_cache=False).last_hidden_state  # [B, T, D]
        rows = torch.arange(len(texts), device=states.device)
        last = states[rows, lengths.to(states.device) - 1].float()  # [B, D]
        # In float32, or rewards of a bfloat16 model would be multiples of some 0.03.
        return last @ self.model.score.weight.to(last).T  # [B, 1]


def preview_judge(options: JudgeOptions, head: ValueHeadWeights | None = None) -> PreTrainedConfig:
    """All of ``load_judge`` but the weights; returns the model's config, and raises alike."""
    return _preview(options, head)[0]


_loaded: dict[str, Judge] = {}
"""The judge that was used last: they are large, and a comparison takes one after the other."""


def load_judge(options: JudgeOptions, head: ValueHeadWeights | None = None) -> Judge:
    """Load a model that judges texts, or take the one of the last call if it is the same.

    Args:
        options: Which model.
        head: For a decoder with a value head under a name of its own.

    Raises:
        ModelNotFoundError: The reference leads nowhere.
        UnsupportedModelError: The model needs code of its own.
        ConfigError: It is no such model, or an option does not fit it.
    """
    key = repr((*(getattr(options, name) for name in JudgeOptions.model_fields), head))
    if key not in _loaded:
        _loaded.clear()  # before, not after: there may be no room for two
        _loaded[key] = _load(options, head)
    return _loaded[key]


def _load(options: JudgeOptions, head: ValueHeadWeights | None) -> Judge:
    config, tokenizer = _preview(options, head)
    device = device_of(options)
    source, files = locate(options.model, options.revision)
    with clear_errors_of(options.model):
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            **files,
            **options_of(options, device),
            key_mapping=None if head is None else _renamed(config, head),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    model, found = loaded
    if head is None:
        check_complete(options.model, found, "sequence classifier")
    else:
        _check_head(options.model, found, head)
    if options.device_map is None and options.quantization_config is None:
        model = model.to(device)
    return Judge(model, tokenizer, options, reads_last=head is not None)


def _preview(options: JudgeOptions, head: ValueHeadWeights | None) -> tuple[PreTrainedConfig, Any]:
    options_of(options, device_of(options))
    source, files = locate(options.model, options.revision)
    with clear_errors_of(options.model):
        config = AutoConfig.from_pretrained(source, **files, trust_remote_code=False)
        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise ConfigError(
                f"model {options.model!r} cannot judge texts: transformers has no "
                f"AutoModelForSequenceClassification for {type(config).__name__}"
            )
    check_safe(options.model, source, files)
    if head is not None:
        config.num_labels = 1
    if options.tokenizer is not None:
        source, files = locate(options.tokenizer)
    with clear_errors_of(options.tokenizer or options.model):
        tokenizer = AutoTokenizer.from_pretrained(source, **files, trust_remote_code=False)
    if options.truncate is not None:
        tokenizer.truncation_side = options.truncate
    if options.chat and not tokenizer.chat_template:
        raise ConfigError(
            f"tokenizer of {options.tokenizer or options.model!r} has no chat template; set chat "
            "to false and give a template with '{prompt}' and '{answer}'"
        )
    _limit(config, tokenizer, options)
    return config, tokenizer


def _limit(config: Any, tokenizer: Any, options: JudgeOptions) -> int:
    """Most tokens of a text, special ones included."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    wanted = options.max_length
    if positions is not None and wanted is not None and wanted > positions:
        raise ConfigError(
            f"max_length is {wanted}, but model {options.model!r} has {positions} positions"
        )
    limits = [tokenizer.model_max_length if wanted is None else wanted, positions]
    return min(limit for limit in limits if limit is not None)


def _renamed(config: PreTrainedConfig, head: ValueHeadWeights) -> dict[str, str]:
    """From names in the files to those of transformers' classifier of this architecture."""
    ours: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    body = ours.base_model_prefix
    names = {f"^{re.escape(head.head)}$": "score.weight"}
    if head.body is not None and head.body != body:
        names[rf"^{re.escape(head.body)}\."] = f"{body}."
    return names


def _check_head(name: str, found: dict[str, Any], head: ValueHeadWeights) -> None:
    missing, others = found["missing_keys"], sorted(found["unexpected_keys"])
    bias = head.head.removesuffix("weight") + "bias"
    if "score.weight" in missing and len(missing) == 1:
        raise ConfigError(
            f"the files of model {name!r} have no tensor {head.head!r} for the value head"
            f"{did_you_mean(head.head, others)}"
        )
    check_complete(
        name, found, "decoder with a value head whose other weights are named as body says"
    )
    if bias in others:
        raise ConfigError(f"the value head of model {name!r} has a bias, which is not supported")
