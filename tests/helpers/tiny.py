"""Tiny random models and their tokenizers: large initial weights, or all differences vanish."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

TEXT = [
    "The movie was great and the plot of the film is a joy to watch, really.",
    "A boring film; the acting was terrible and I left before the end!",
    "電影很好看 😀 and the 映画 was fun 🎬🍿 for everyone.",
    "def main():\n    return 1\n\nprint(main())",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EXCHANGE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
"""A question and its answer, as CHATML renders them."""


@functools.cache
def byte_tokenizer(
    size: int = 320, bos: bool = False, name: str = "bytes"
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2 and Llama-3 have it: most emoji and CJK are split into bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        chat_template=CHATML,
        name_or_path=name,
    )


@functools.cache
def sentencepiece_tokenizer(size: int = 150) -> PreTrainedTokenizerFast:
    """BPE over pieces with byte fallback, as Llama-2 has it: decoding drops a leading space."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator(
        [line for line in TEXT if line.isascii()],
        trainers.BpeTrainer(vocab_size=size, show_progress=False),
    )
    model = json.loads(learned.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocabulary = {piece: i for i, piece in enumerate([*first, *pieces])}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        name_or_path="pieces",
    )


def llama(vocabulary: int, seed: int = 0, **options: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": vocabulary,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.3,
            "bos_token_id": 0,
            "eos_token_id": 1,
            **options,
        }
    )
    return LlamaForCausalLM(config).eval()


def gpt2(vocabulary: int, seed: int = 0, **options: Any) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        **{
            "vocab_size": vocabulary,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 512,
            "initializer_range": 0.3,
            "bos_token_id": 0,
            "eos_token_id": 1,
            **options,
        }
    )
    return GPT2LMHeadModel(config).eval()


def bloom(vocabulary: int = 320, seed: int = 0) -> BloomForCausalLM:
    """Takes no positions: it counts the columns of its mask (ALiBi)."""
    torch.manual_seed(seed)
    config = BloomConfig(
        vocab_size=vocabulary, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5
    )
    return BloomForCausalLM(config).eval()


def noisy(model: Any, scale: float = 0.1, seed: int = 7) -> Any:
    """A copy whose weights are perturbed: a tuned guide that differs a little."""
    copy = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in copy.parameters():
            if weight.numel() == 1:
                continue  # which has no deviation
            weight += scale * weight.std() * torch.randn(weight.shape, generator=generator)
    return copy


def mistral(vocabulary: int, seed: int = 0, **options: Any) -> MistralForCausalLM:
    """With a sliding window of 8 tokens, if the options say nothing else."""
    torch.manual_seed(seed)
    config = MistralConfig(
        **{
            "vocab_size": vocabulary,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.3,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "sliding_window": 8,
            **options,
        }
    )
    return MistralForCausalLM(config).eval()


def distilbert_classifier(
    vocabulary: int, labels: tuple[str, ...] = ("NEGATIVE", "POSITIVE"), seed: int = 0
) -> DistilBertForSequenceClassification:
    """A classifier of texts of at most 64 tokens."""
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=vocabulary, dim=32, hidden_dim=64, n_layers=2, n_heads=4,
        max_position_embeddings=64, initializer_range=0.3,
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
    )  # fmt: skip
    return DistilBertForSequenceClassification(config).eval()


def llama_reward(pad_token_id: int | None) -> LlamaForSequenceClassification:
    """A reward model with one output, and the vocabulary of `byte_tokenizer`."""
    torch.manual_seed(9)
    options: dict[str, Any] = {"num_labels": 1}
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=512, initializer_range=0.3,
        pad_token_id=pad_token_id, **options,
    )  # fmt: skip
    return LlamaForSequenceClassification(config).eval()


def deberta_reward(vocabulary: int, seed: int = 0) -> DebertaV2ForSequenceClassification:
    """A reward model with a single output, as DeBERTa-v3 is configured."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True,
        "pooler_hidden_size": 32, "num_labels": 1,
    }  # fmt: skip
    config = DebertaV2Config(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=512, initializer_range=0.3,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        type_vocab_size=0, **options,
    )  # fmt: skip
    return DebertaV2ForSequenceClassification(config).eval()


@functools.cache
def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """A unigram model over pieces between [CLS] and [SEP], as DeBERTa-v3 has it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tokenizer.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="[UNK]", show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        name_or_path="unigrams",
    )


@functools.cache
def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """Lowercased word pieces between [CLS] and [SEP], as BERT and DistilBERT have them."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        TEXT,
        trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        name_or_path="words",
    )


def save_value_head(
    folder: Path, decoder: LlamaForCausalLM, body: str = "model", head: str = "v_head.weight"
) -> Tensor:
    """Write a reward model as its own class would name its weights; returns the head. [1, D]"""
    folder.mkdir(parents=True)
    value_head = torch.randn(
        1, decoder.config.hidden_size, generator=torch.Generator().manual_seed(5)
    )
    weights = {f"{body}.{name}": value for name, value in decoder.model.state_dict().items()}
    save_file({**weights, head: value_head}, folder / "model.safetensors", {"format": "pt"})
    config = {**decoder.config.to_dict(), "architectures": ["OwnRewardModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    return value_head


def save_adapter(folder: Path, base: Any, seed: int = 3, scale: float = 0.5, **options: Any) -> Any:
    """Write a LoRA for ``base`` as peft saves it; returns the base with it merged in."""
    from peft import LoraConfig, get_peft_model

    copy = type(base)(base.config).eval()
    copy.load_state_dict(base.state_dict())
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "target_modules": "all-linear", **options})
    adapted: Any = get_peft_model(copy, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.add_(scale * torch.randn_like(weight) * base.config.initializer_range)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload().eval()
