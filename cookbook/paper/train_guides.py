"""Train the gpt2 guides of the sentiment and summarization studies.

``sentiment``: the untuned guide is ``lvwerra/gpt2-imdb``; the tuned one is trained from it by
direct preference optimisation (DPO), with the hyperparameters of the reference implementation.
``summarization``: the untuned guide is gpt2, fine-tuned on the preferred summaries; the tuned one
is trained from it by DPO.

Run it from the root of the repository, on one GPU:
``python -m cookbook.paper.train_guides sentiment`` (or ``summarization``).
"""

# trl and datasets come with the extra "train", which the checks do without.
# pyright: reportMissingImports=false

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

load_dataset = cast(Any, datasets).load_dataset  # it is only partly typed

GUIDES = Path(__file__).parent / "guides"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train a guide pair.

    Attributes:
        base: The model that both guides come from.
        data: Preferences: a dataset on the hub with splits ``train`` and ``validation``.
        fine_tuned: Whether the untuned guide is ``base`` after supervised fine-tuning.
        epochs: Epochs of DPO.
    """

    base: str
    data: str
    fine_tuned: bool
    epochs: float


RECIPES = {
    "sentiment": Recipe(
        base="lvwerra/gpt2-imdb", data="ZHZisZZ/imdb_preference", fine_tuned=False, epochs=3
    ),
    "summarization": Recipe(
        base="openai-community/gpt2", data="trl-lib/tldr-preference", fine_tuned=True, epochs=1
    ),
}


def preferences(data: str, split: str, limit: int | None) -> datasets.Dataset:
    """Load pairs with columns ``prompt``, ``chosen`` and ``rejected``.

    Args:
        data: A dataset on the hub, or a local file of JSON lines.
        split: The split of a dataset on the hub.
        limit: Use only this many pairs, from the start.
    """
    local = Path(data).is_file()
    rows: Any = (
        load_dataset("json", data_files=data, split="train")
        if local
        else load_dataset(data, split=split)
    )
    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    return rows.map(as_pair, remove_columns=rows.column_names)


def as_pair(row: dict[str, Any]) -> dict[str, str]:
    """Return prompt, chosen and rejected, also from a row with two responses and an index."""
    if "responses" not in row:
        return {name: row[name] for name in ("prompt", "chosen", "rejected")}
    responses, chosen = row["responses"], row["chosen"]
    return {
        "prompt": row["prompt"],
        "chosen": responses[chosen],
        "rejected": responses[1 - chosen],
    }


def load_model(name: str) -> Any:
    load = cast(Any, AutoModelForCausalLM).from_pretrained
    return load(name, dtype=torch.float32, use_safetensors=True)


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer; gpt2 has no padding token."""
    tokenizer = cast(Any, AutoTokenizer).from_pretrained(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def fine_tune(base: str, train: Any, folder: Path, arguments: argparse.Namespace) -> None:
    """Fit a model to the chosen responses, and save it in ``folder``."""
    tokenizer = load_tokenizer(base)
    rows = train.rename_column("chosen", "completion").remove_columns("rejected")
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=load_model(base),
            args=SFTConfig(
                output_dir=scratch,
                learning_rate=arguments.sft_lr,
                num_train_epochs=1,
                save_strategy="no",
                **_shared(arguments),
            ),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        train_and_save(trainer, tokenizer, folder)


def prefer(
    untuned: str,
    train: datasets.Dataset,
    validation: datasets.Dataset | None,
    folder: Path,
    arguments: argparse.Namespace,
) -> None:
    """Train a model by DPO and save it in ``folder``; with validation data the best checkpoint."""
    tokenizer = load_tokenizer(untuned)
    choose: dict[str, Any] = {"save_strategy": "no"}
    if validation is not None:
        choose = {
            "eval_strategy": "steps",
            "eval_steps": 0.25,
            "save_strategy": "steps",
            "save_steps": 0.25,
            "save_total_limit": 1,
            "save_only_model": True,
            "load_best_model_at_end": True,
        }
    with tempfile.TemporaryDirectory() as scratch:
        trainer = DPOTrainer(
            model=load_model(untuned),
            ref_model=load_model(untuned),
            args=DPOConfig(
                output_dir=scratch,
                beta=arguments.beta,
                learning_rate=arguments.lr,
                num_train_epochs=arguments.epochs,
                **choose,
                **_shared(arguments),
            ),
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
        )
        train_and_save(trainer, tokenizer, folder)


def _shared(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "max_steps": arguments.max_steps,
        "per_device_train_batch_size": arguments.batch,
        "per_device_eval_batch_size": arguments.batch,
        "weight_decay": 0.05,
        "warmup_steps": 0.25,  # of all steps
        "lr_scheduler_type": "linear",
        "max_length": 1024,
        "seed": arguments.seed,
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "logging_steps": 10,
        "report_to": "none",
    }


def train_and_save(trainer: Any, tokenizer: Any, folder: Path) -> None:
    """Run a trainer, and save its model in ``folder``."""
    trainer.train()
    trainer.model.config.use_cache = True  # the trainers turn it off
    trainer.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the guides of one study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=RECIPES)
    parser.add_argument("--out", type=Path, default=GUIDES, help="folder of the guides' folders")
    parser.add_argument("--base", help="instead of the study's own: hub id or local folder")
    parser.add_argument("--data", help="preferences: dataset on the hub, or a .jsonl file")
    parser.add_argument("--validation", help="a .jsonl file; with --data on the hub its own split")
    parser.add_argument("--limit", type=int, help="only so many of the first pairs")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--sft-lr", type=float, default=5e-5)
    parser.add_argument("--epochs", type=float, help="of DPO")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    recipe = RECIPES[arguments.task]
    arguments.epochs = arguments.epochs or recipe.epochs
    set_seed(arguments.seed)
    data = arguments.data or recipe.data
    train = preferences(data, "train", arguments.limit)
    validation = None
    if arguments.validation or not Path(data).is_file():
        validation = preferences(
            arguments.validation or data, "validation", arguments.limit or 4000
        )
    untuned = arguments.base or recipe.base
    if recipe.fine_tuned:
        folder = arguments.out / f"{arguments.task}-untuned"
        fine_tune(untuned, train, folder, arguments)
        untuned = str(folder)
    prefer(untuned, train, validation, arguments.out / f"{arguments.task}-tuned", arguments)


if __name__ == "__main__":
    main()
