"""Train the reward model in the package: the untuned guide with a head that tells good from bad.

Run it from the root of the repository:
``python -m cookbook.controlled_sentiment.train_reward FOLDER``, in the environment of
``train_guides``; half a minute on one core.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch.nn.functional import binary_cross_entropy_with_logits

from cookbook.controlled_sentiment.data import CLEAR, Review, split
from w2s_chains.backend.loading.embedded import embedded_path

hf = cast(Any, transformers)  # it is only partly typed

SEED, EPOCHS, BATCH, RATE, WEIGHT_DECAY = 0, 4, 32, 1e-3, 0.1


def train(folder: Path) -> float:
    """Train the model and write it into ``folder``; return its accuracy on the test split."""
    hf.set_seed(SEED)
    source = embedded_path("reviews-untuned")
    tokenizer = hf.AutoTokenizer.from_pretrained(source, padding_side="right")
    model = hf.AutoModelForSequenceClassification.from_pretrained(
        source, dtype=torch.float32, num_labels=1
    )

    def logits(reviews: Sequence[Review]) -> torch.Tensor:
        texts = tokenizer([r.text for r in reviews], padding=True, return_tensors="pt")
        return model(**texts).logits[:, 0]

    seen, unseen = (
        [review for review in reviews if abs(review.rating) >= CLEAR]
        for reviews in (split().guides, split().test)
    )
    optimizer = cast(Any, torch.optim).AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = hf.get_linear_schedule_with_warmup(optimizer, 0, EPOCHS * (len(seen) // BATCH))
    for _ in range(EPOCHS):
        order = torch.randperm(len(seen))
        for at in range(0, len(seen) - BATCH + 1, BATCH):
            batch = [seen[int(i)] for i in order[at : at + BATCH]]
            good = torch.tensor([float(review.rating > 0) for review in batch])
            optimizer.zero_grad()
            loss: Any = binary_cross_entropy_with_logits(logits(batch), good)
            loss.backward()
            optimizer.step()
            schedule.step()
    model.half().save_pretrained(folder)
    hf.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    model.float()
    with torch.no_grad():
        right = (logits(unseen) > 0) == torch.tensor([review.rating > 0 for review in unseen])
    return right.float().mean().item()


if __name__ == "__main__":
    print(f"accuracy on the test split: {train(Path(sys.argv[1])):.3f}")
