"""The gold judge, which no guide has seen: a classifier fitted to its own set of reviews."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cookbook.controlled_sentiment.data import CLEAR, Review, split
from w2s_chains.backend.loading.embedded import build_once
from w2s_chains.rewards import TextClassifier

_FILE = "gold.csv"


def gold_reward() -> TextClassifier:
    """Return the gold judge: the log-odds of a positive review, by TF-IDF and logistic regression.

    It is fitted to the gold split.
    """
    folder = build_once("movie-reviews-gold-0.5", lambda path: write_gold(path / _FILE))
    return TextClassifier(name="gold", data=folder / _FILE, template="{prompt}{answer}")


def write_gold(path: Path, reviews: Iterable[Review] | None = None) -> None:
    """Write the clearly good reviews (label 1) and bad ones (0); by default of the gold split."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label"])
        for review in split().gold if reviews is None else reviews:
            if abs(review.rating) >= CLEAR:
                writer.writerow([review.text, int(review.rating > 0)])


def accuracy(reward: TextClassifier, reviews: Iterable[Review]) -> float:
    """Return the share of ``reviews`` whose sign the judge gets right."""
    reviews = list(reviews)
    scores = reward.score([""] * len(reviews), [review.text for review in reviews])
    return float(np.mean([(s > 0) == (r.rating > 0) for s, r in zip(scores, reviews, strict=True)]))


def main() -> None:
    """Print how well the classifier does on reviews that it has not seen."""
    gold = gold_reward()
    for name, reviews in {"test": split().test, "guides": split().guides}.items():
        strong = [review for review in reviews if abs(review.rating) >= 1.5]
        print(
            f"{name}: accuracy {accuracy(gold, reviews):.3f} on {len(reviews)} reviews; "
            f"{accuracy(gold, strong):.3f} on {len(strong)} with |rating| >= 1.5"
        )


if __name__ == "__main__":
    main()
