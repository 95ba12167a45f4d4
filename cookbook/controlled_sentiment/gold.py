"""Two judges of sentiment that no guide has seen: a classifier and a lexicon."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from cookbook.controlled_sentiment.data import CLEAR, Review, split


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldReward:
    """TF-IDF of words and word pairs, then logistic regression: the log-odds of being positive.

    It is fitted anew each time (two seconds), so there is no pickle to trust.
    """

    pipeline: Pipeline

    @classmethod
    def fit(cls, reviews: Sequence[Review] | None = None) -> "GoldReward":
        """Fit on the reviews that are clearly good or bad; on the gold split if not given."""
        reviews = [
            r for r in (split().gold if reviews is None else reviews) if abs(r.rating) >= CLEAR
        ]
        pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            LogisticRegression(C=10.0, max_iter=1000),
        )
        pipeline.fit([review.text for review in reviews], [review.rating > 0 for review in reviews])
        return cls(pipeline=pipeline)

    def score(self, texts: Sequence[str]) -> list[float]:
        """Return one logit per text; give whole texts, prompt and response together."""
        return self.pipeline.decision_function(texts).tolist() if texts else []

    def accuracy(self, reviews: Sequence[Review]) -> float:
        """Return the share of ``reviews`` whose sign it gets right."""
        positive = np.array([review.rating > 0 for review in reviews])
        scores = np.array(self.score([review.text for review in reviews]))
        return float(np.mean((scores > 0) == positive))


def vader(texts: Sequence[str]) -> list[float]:
    """Return the compound score of VADER per text, from -1 (negative) to 1 (positive)."""
    analyzer = SentimentIntensityAnalyzer()
    return [analyzer.polarity_scores(text)["compound"] for text in texts]


def main() -> None:
    """Print how well the classifier does on reviews that it has not seen."""
    gold = GoldReward.fit()
    for name, reviews in {"test": split().test, "guides": split().guides}.items():
        strong = [review for review in reviews if abs(review.rating) >= 1.5]
        print(
            f"{name}: accuracy {gold.accuracy(reviews):.3f} on {len(reviews)} reviews; "
            f"{gold.accuracy(strong):.3f} on {len(strong)} with |rating| >= 1.5"
        )


if __name__ == "__main__":
    main()
