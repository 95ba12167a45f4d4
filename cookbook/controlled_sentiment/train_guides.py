"""Train the guides in the package: a tiny language model of reviews, and a tuned copy of it.

Both read a whole review up to the end token; at search time its first words are the prompt. The
untuned guide learns to predict reviews of every kind. The tuned one starts from it and learns to
prefer good reviews to bad ones, by direct preference optimisation (DPO) plus the loglikelihood of
the good one: without the second term the length of its texts drifts. There are two such pairs: one
has a small vocabulary of its own, the other has SmolLM2's vocabulary.

Run it from the root of the repository:
``python -m cookbook.controlled_sentiment.train_guides FOLDER``, and for the other pair
``--vocabulary smollm2`` in the environment ``MALLOC_MMAP_THRESHOLD_=4000000000
MALLOC_TRIM_THRESHOLD_=16000000000``: otherwise glibc returns the memory of large tensors at every
step, and training takes several times as long.
"""

# trl and datasets come with the extra "train", which the checks do without.
# pyright: reportMissingImports=false

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import datasets
import safetensors.torch
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from cookbook.controlled_sentiment.data import Review, split
from w2s_chains.backend.loading.embedded import embedded_path

Dataset = cast(Any, datasets).Dataset  # datasets and the trainers are only partly typed

SMOLLM2 = "smollm2-135m-instruct"
BOS, EOS = "<s>", "</s>"
CONTEXT = 2048
SEPARATORS = (" ", " ", " ", "\n", "\n\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of a training run; ``RECIPES`` made the guides in the package."""

    seed: int = 0
    vocabulary: int | None = 1024
    """Size of a vocabulary of its own; None uses SmolLM2's, and starts from its embeddings."""
    hidden: int = 48
    heads: int = 4
    layers: int = 1
    batch: int = 32
    rows: int = 32
    """Texts of a batch to run at once: fewer need less padding, which costs time on a CPU."""
    joined_passes: int = 2
    untuned_epochs: float = 2
    untuned_lr: float = 4e-3
    tuned_epochs: float = 3
    tuned_lr: float = 1.5e-3
    beta: float = 0.1
    clear: float = 1.0
    likelihood_weight: float = 1.0
    weight_decay: float = 0.01
    embedding_std: float = 0.1
    """Standard deviation of the embeddings that are made from SmolLM2's."""


RECIPES = {
    "own": Recipe(),
    "smollm2": Recipe(
        vocabulary=None,
        batch=16,
        rows=1,
        joined_passes=1,
        untuned_epochs=1,
        untuned_lr=3e-3,
        tuned_epochs=1.5,
        weight_decay=0.0,  # otherwise it would shrink the embeddings of tokens in no review
    ),
}


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE; it starts from all 256 bytes, so that it can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def smollm2_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the embedded SmolLM2, end token ``<|im_end|>``, no start token."""
    load = cast(Any, AutoTokenizer).from_pretrained
    return load(embedded_path(SMOLLM2), trust_remote_code=False)


def smollm2_embeddings(recipe: Recipe) -> torch.Tensor:
    """Return the first principal components of SmolLM2's embeddings, rescaled.

    Most of its tokens are rare or missing in the reviews: from random weights their embeddings
    would stay noise, and the proposer may write these tokens.

    Returns:
        One row per token. [V, hidden]
    """
    weights: dict[str, torch.Tensor] = cast(Any, safetensors.torch).load_file(
        embedded_path(SMOLLM2) / "model.safetensors"
    )
    rows = weights["model.embed_tokens.weight"]  # [V, D]
    rows = rows - rows.mean(0)
    axes = cast(Any, torch.linalg).eigh(rows.T @ rows).eigenvectors  # in ascending order
    components = rows @ axes[:, -recipe.hidden :]
    return components * (recipe.embedding_std / components.std())


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """Return a Llama of one layer with random weights and tied embeddings."""
    special: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=4 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**special)
    return model


def joined(reviews: Sequence[Review], rng: random.Random) -> list[str]:
    """Join one to three reviews of one sign, because a proposer writes more than one sentence."""
    texts: list[str] = []
    for sign in (True, False):
        left = [review.text for review in reviews if (review.rating > 0) == sign]
        rng.shuffle(left)
        while left:
            text = left.pop()
            for _ in range(min(rng.randrange(3), len(left))):
                text += rng.choice(SEPARATORS) + left.pop()
            texts.append(text)
    return texts


def train_untuned(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    recipe: Recipe,
) -> None:
    """Fit ``model`` in place to ``texts``, by language modelling."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                num_train_epochs=recipe.untuned_epochs,
                learning_rate=recipe.untuned_lr,
                **_shared_settings(recipe),
            ),
            train_dataset=Dataset.from_dict({"text": list(texts)}),
            processing_class=tokenizer,
        )
        cast(Any, trainer).train()


def preference_pairs(reviews: Sequence[Review], clear: float) -> list[tuple[Review, Review]]:
    """Pair good reviews with bad ones of about the same length, so that length tells nothing.

    Args:
        reviews: The reviews.
        clear: Smallest distance from 0 of the rating of a good or bad review.
    """
    good, bad = (
        sorted((r for r in reviews if sign * r.rating >= clear), key=lambda r: len(r.text))
        for sign in (1, -1)
    )
    n = max(len(good), len(bad))
    return [(good[i * len(good) // n], bad[i * len(bad) // n]) for i in range(n)]


def train_tuned(
    model: LlamaForCausalLM,
    untuned: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[tuple[Review, Review]],
    recipe: Recipe,
) -> None:
    """Fit ``model`` in place to prefer the first of each pair; ``untuned`` is the reference."""
    dataset = Dataset.from_dict(
        {
            "prompt": [""] * len(pairs),
            "chosen": [good.text for good, _ in pairs],
            "rejected": [bad.text for _, bad in pairs],
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = DPOTrainer(
            model=model,
            ref_model=untuned,
            args=DPOConfig(
                output_dir=scratch,
                num_train_epochs=recipe.tuned_epochs,
                learning_rate=recipe.tuned_lr,
                beta=recipe.beta,
                loss_type=["sigmoid", "sft"],
                loss_weights=[1.0, recipe.likelihood_weight],
                **_shared_settings(recipe),
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        cast(Any, trainer).train()


def _shared_settings(recipe: Recipe) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": recipe.rows,
        "gradient_accumulation_steps": recipe.batch // recipe.rows,
        "seed": recipe.seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "weight_decay": recipe.weight_decay,
        "logging_steps": 50,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def train(
    reviews: Sequence[Review], recipe: Recipe
) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM, LlamaForCausalLM]:
    """Train tokenizer, tuned and untuned guide, in this order of return."""
    set_seed(recipe.seed)
    texts = [review.text for review in reviews]
    if recipe.vocabulary is None:
        tokenizer = smollm2_tokenizer()
        untuned = new_model(tokenizer, recipe)
        untuned.get_input_embeddings().load_state_dict({"weight": smollm2_embeddings(recipe)})
    else:
        tokenizer = train_tokenizer(texts, recipe.vocabulary)
        untuned = new_model(tokenizer, recipe)
    rng = random.Random(recipe.seed)
    for _ in range(recipe.joined_passes):
        texts += joined(reviews, rng)
    train_untuned(untuned, tokenizer, texts, recipe)
    tuned = new_model(tokenizer, recipe)
    tuned.load_state_dict(untuned.state_dict())
    train_tuned(tuned, untuned, tokenizer, preference_pairs(reviews, recipe.clear), recipe)
    return tokenizer, tuned, untuned


def main(argv: Sequence[str] | None = None) -> None:
    """Train both guides and write them as float16 folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where reviews-tuned and reviews-untuned go")
    parser.add_argument(
        "--vocabulary", choices=RECIPES, default="own", help="smollm2: reviews-smollm2-tuned, ..."
    )
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    arguments = parser.parse_args(argv)
    recipe = replace(RECIPES[arguments.vocabulary], seed=arguments.seed)
    tokenizer, tuned, untuned = train(split().guides, recipe)
    prefix = "reviews" if arguments.vocabulary == "own" else f"reviews-{arguments.vocabulary}"
    for kind, model in {"tuned": tuned, "untuned": untuned}.items():
        folder = arguments.folder / f"{prefix}-{kind}"
        model.config.use_cache = True  # the trainers turn it off
        cast(Any, model).half().save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)  # saved for the owner only
        cast(Any, tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    main()
