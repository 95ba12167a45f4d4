"""Models that also read images or sounds: find the language model inside, and keep it alone.

Where transformers can read its weights alone, it does (Llama 4, Qwen 3.5). Else the whole model is
loaded, under transformers' own rules for the names of weights, and the rest is dropped before the
text's part goes to a device. What is kept must give the logits of the whole.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    PreTrainedConfig,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ModuleUtilsMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING

from w2s_chains.backend.lm.exactness import difference, usual_tokens
from w2s_chains.backend.lm.planes import name_of
from w2s_chains.backend.lm.positions import text_config
from w2s_chains.errors import ConfigError, UnsupportedModelError, brief

_causal, _multimodal = cast(Any, AutoModelForCausalLM), cast(Any, AutoModelForMultimodalLM)
_causal_classes = cast(Any, MODEL_FOR_CAUSAL_LM_MAPPING)  # they are only partly typed
_multimodal_classes = cast(Any, MODEL_FOR_MULTIMODAL_LM_MAPPING)
logger = logging.getLogger(__name__)

_TOKENS = 8
_SAME = 1e-3
"""Largest difference from the whole, as a share of the logits' norm: the same layers run."""


class TextPart(ModuleUtilsMixin, nn.Module):
    """A decoder and its head, where transformers has no causal language model of them (Qwen-VL).

    It has what we need of a ``PreTrainedModel``, whose own checks ask for a family's code.
    """

    def __init__(self, model: Any, lm_head: Any) -> None:
        super().__init__()
        self.model, self.lm_head = model, lm_head
        self.config = model.config
        # transformers 5.24 renamed it.
        renamed = "cache" in inspect.signature(model.forward).parameters
        self._cache_option = "cache" if renamed else "past_key_values"

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.lm_head

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """Return the logits: [B, n, V], or of the last ``logits_to_keep`` columns."""
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **{self._cache_option: past_key_values},
        )
        hidden = found.last_hidden_state[:, -logits_to_keep:]  # -0 is all of them
        return CausalLMOutputWithPast(logits=self.lm_head(hidden))


def auto_class(name: str, config: PreTrainedConfig) -> Any:
    """Return the class of transformers that loads a model, or the whole around a language model.

    Raises:
        ConfigError: There is no language model inside.
    """
    text = text_config(config)
    own = _causal_classes.get(type(config), None)
    if own is not None and (text is config or own.config_class is type(text)):
        return _causal
    if text is not config and type(config) in _multimodal_classes:
        return _multimodal
    if own is not None:
        return _causal
    raise ConfigError(
        f"model {name!r} is no causal language model: transformers has no "
        f"AutoModelForCausalLM for {type(config).__name__}"
    )


@torch.inference_mode()
def text_part(name: str, whole: Any) -> Any:
    """Return the causal language model inside a model; itself if it is one and no more.

    Args:
        name: The model's name, for messages.
        whole: What ``auto_class`` loaded. Its parts are taken, so it is not to be used again.

    Raises:
        UnsupportedModelError: No part that reads only text gives the logits of the whole.
    """
    text = text_config(whole.config)
    if text is whole.config:
        return whole
    whole = whole.eval()
    ids = torch.tensor([usual_tokens(whole.config, text.vocab_size, _TOKENS)])
    ids = ids.to(whole.get_input_embeddings().weight.device)
    apart: list[str] = []
    try:
        wanted = whole(input_ids=ids, use_cache=False).logits.float()
        for part in _candidates(whole, text):
            found = part(input_ids=ids, use_cache=False).logits.float()
            if (share := difference(found, wanted)) <= _SAME:
                if apart:
                    logger.warning("model %r: %s from the whole, which is used", name, apart[0])
                return _named(part, whole)
            apart.append(f"{type(part).__name__} gives logits that differ by {share:.1%}")
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any code of any architecture
        apart.append(f"{type(error).__name__}: {brief(error)}")
    if type(whole.config) in _causal_classes:
        return whole  # transformers says that it is a causal language model as it is
    raise UnsupportedModelError(
        f"model {name!r} reads more than text ({type(whole).__name__}), and no language model "
        f"inside gives the same logits for text alone: {'; '.join(apart) or 'it has none'}; save "
        "its language model as a folder of its own and name that"
    )


def _named(part: Any, whole: Any) -> Any:
    """Give the part what is said of the whole."""
    part.config._name_or_path = name_of(whole.config)
    if (quantized := getattr(whole.config, "quantization_config", None)) is not None:
        part.config.quantization_config = quantized
    part.generation_config = whole.generation_config
    return part


def _candidates(whole: Any, text: Any) -> Iterator[Any]:
    """Yield models of text alone from the parts of a whole, those that say most of it first."""
    decoder, head = whole.get_decoder(), whole.get_output_embeddings()
    if decoder is None or decoder is whole:
        return
    if decoder.get_output_embeddings() is not None:
        yield decoder
        return
    if head is None:
        return
    if type(text) in _causal_classes:
        with torch.device("meta"):
            part = _causal.from_config(text, trust_remote_code=False)
        inner = part.base_model_prefix
        if type(getattr(part, inner)) is type(decoder):
            setattr(part, inner, decoder)
            part.set_output_embeddings(head)
            part.config = decoder.config
            if not any(weight.is_meta for weight in part.state_dict(keep_vars=True).values()):
                yield part
    yield TextPart(decoder, head)


def weights_of(part: Any, whole: Any, names: Iterable[str]) -> list[str]:
    """Return those names of the whole's weights that the part has, too."""
    own = {id(weight) for weight in part.state_dict(keep_vars=True).values()}
    all_weights = whole.state_dict(keep_vars=True)
    return [name for name in names if name not in all_weights or id(all_weights[name]) in own]
