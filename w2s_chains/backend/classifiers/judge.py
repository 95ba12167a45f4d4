"""``Judge``: a model that judges whole texts, and its options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from w2s_chains.backend.chat.bounded import apply_chat_template
from w2s_chains.backend.lm.adapters import input_device
from w2s_chains.backend.lm.logits import no_numbers, to_lists
from w2s_chains.backend.loading.config import ModelName, Placement
from w2s_chains.core.prompts import Prompt
from w2s_chains.errors import ConfigError, PromptError, ScorerError


class JudgeOptions(Placement):
    """Which model judges, and how it reads a text.

    Attributes:
        model: Hub id or local folder, with safetensors.
        tokenizer: Hub id or local folder of its tokenizer, if that is not with the model.
        chat: Render prompt and answer as two turns of the tokenizer's chat template.
        batch_size: Texts to read at once.
        max_length: Longest text, in tokens; by default what tokenizer and model allow.
        truncate: The end of a longer text to cut off; by default a longer text is an error.
    """

    model: ModelName
    tokenizer: ModelName | None = None
    chat: bool = False
    batch_size: int = Field(default=8, ge=1)
    max_length: int | None = Field(default=None, ge=1)
    truncate: Literal["left", "right"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueHeadWeights:
    """Names of the weights of a decoder with a value head in its files.

    Attributes:
        head: Name of the head's tensor. [1, D]
        body: Prefix of the names of the decoder's weights; None for transformers' own prefix.
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
            reads_last: Read the head at the last token, whatever that is. Otherwise the model
                chooses the place; decoders take the last token that is not the padding token.
        """
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.options = options
        self.reads_last = reads_last
        self.device = input_device(model)
        self.limit = longest_text(model.config, tokenizer, options)

    def text_ids(self, text: str) -> list[int]:
        """Return the tokens of a text, special tokens included.

        Raises:
            PromptError: The text is empty, or it is too long and ``truncate`` is not set.
        """
        return self._checked(self.tokenizer(text, verbose=False, **self._truncation)["input_ids"])

    def chat_ids(self, prompt: Prompt, answer: str, ended: bool = True) -> list[int]:
        """Return the tokens of a conversation: the prompt's turns, then the answer's.

        Args:
            prompt: The prompt.
            answer: The assistant's turn.
            ended: Whether to close that turn.

        Raises:
            PromptError: The text is empty or too long, or the template refuses the prompt.
        """
        turns = [{"role": turn.role, "content": turn.plain_text} for turn in prompt.turns]
        turns.append({"role": "assistant", "content": answer})
        try:
            rendered = apply_chat_template(
                self.tokenizer,
                turns,
                tokenize=True,
                return_dict=True,
                sanitize_control_tokens=True,
                continue_final_message=not ended,
                **self._truncation,
            )
        except Exception as error:  # templates raise exceptions of any type
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
            raise PromptError(f"the text is empty, and model {name!r} has no token to read instead")
        if len(ids) > self.limit:
            raise PromptError(
                f"the text has {len(ids)} tokens, but model {name!r} reads at most {self.limit}; "
                "lower max_tokens, or set truncate to 'left' or 'right' for this model"
            )
        return ids

    def logits(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Run the model on tokenised texts; return one output per label for each text.

        Raises:
            ScorerError: The model gave logits that are NaN or infinite.
        """
        found: dict[int, list[float]] = {}
        by_length = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        # Without a padding token a model cannot tell where a padded text ends.
        size = self.options.batch_size if self.reads_last or self._pad_id is not None else 1
        for start in range(0, len(texts), size):
            rows = by_length[start : start + size]
            values = to_lists(self._read([texts[i] for i in rows]))  # [B, labels]
            if not all(math.isfinite(value) for row in values for value in row):
                raise ScorerError(no_numbers(self.options.model, self.model.dtype))
            found.update(zip(rows, values, strict=True))
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
        # In float32: in bfloat16 rewards would be rounded to multiples of about 0.03.
        return last @ self.model.score.weight.to(last).T  # [B, 1]


def longest_text(config: Any, tokenizer: Any, options: JudgeOptions) -> int:
    """Return the most tokens that a text may have, special tokens included.

    Raises:
        ConfigError: ``max_length`` is more than the model's positions.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    wanted = options.max_length
    if positions is not None and wanted is not None and wanted > positions:
        raise ConfigError(
            f"max_length is {wanted}, but model {options.model!r} has {positions} positions"
        )
    limits = [tokenizer.model_max_length if wanted is None else wanted, positions]
    return min(limit for limit in limits if limit is not None)
