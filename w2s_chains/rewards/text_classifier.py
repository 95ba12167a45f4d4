"""``TextClassifier``: a classifier fitted to data when it is needed, so no pickle is opened."""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import Field

from w2s_chains.errors import ConfigError
from w2s_chains.rewards.base import FileBeside, Reward
from w2s_chains.rewards.text import require


class TextClassifier(Reward):
    """TF-IDF of words and word pairs, then logistic regression: the log-odds of ``positive``.

    It is fitted once per process; the fit is deterministic.

    Attributes:
        data: A CSV file, or TSV if its name ends in .tsv, with a header.
        text: Column with the texts.
        label: Column with the labels, of which there are two.
        positive: The label whose log-odds are the reward.
        ngrams: Longest sequence of words that is a feature.
        c: Inverse strength of the regularisation.
    """

    type: Literal["text_classifier"] = "text_classifier"
    quick: ClassVar[bool] = True
    data: FileBeside
    text: str = "text"
    label: str = "label"
    positive: str = "1"
    ngrams: int = Field(default=2, ge=1, le=100)
    c: float = Field(default=10.0, gt=0, allow_inf_nan=False)

    @property
    def meaning(self) -> str:
        return f"log-odds of the label {self.positive!r}, in nats; higher is better"

    def check(self) -> None:
        require("sklearn", self)
        self._pipeline()

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        if not answers:
            return []
        return self._pipeline().decision_function(self.texts(prompts, answers)).tolist()

    def _pipeline(self) -> Any:
        try:
            changed = self.data.stat().st_mtime_ns
        except OSError as error:
            raise ConfigError(
                f"reward {self.column!r}: cannot read data {str(self.data)!r}: {error}"
            ) from error
        columns = (self.text, self.label, self.positive)
        return _fit(self.data, changed, columns, self.ngrams, self.c)


@functools.lru_cache(maxsize=16)
def _fit(path: Path, _changed: int, columns: tuple[str, str, str], ngrams: int, c: float) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

    texts, positive = _read(path, *columns)
    words = TfidfVectorizer(ngram_range=(1, ngrams), sublinear_tf=True)
    odds = LogisticRegression(C=c, max_iter=1000)
    return cast(Any, Pipeline([("words", words), ("odds", odds)])).fit(texts, positive)


def _read(path: Path, text: str, label: str, positive: str) -> tuple[list[str], list[bool]]:
    texts: list[str] = []
    labels: list[str] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            for name in (text, label):
                if name not in (rows.fieldnames or ()):
                    raise ConfigError(f"{path}:1: no column {name!r} (columns: {rows.fieldnames})")
            for row in rows:
                if not row[text] or row[label] is None:
                    raise ConfigError(f"{path}:{rows.line_num}: text or label is missing")
                texts.append(row[text])
                labels.append(row[label])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}") from error
    kinds = sorted(set(labels))
    if len(kinds) != 2 or positive not in kinds:
        shown = ", ".join(map(repr, itertools.islice(kinds, 5)))
        raise ConfigError(
            f"{path}: column {label!r} must have two labels, and {positive!r} be one of them; "
            f"it has {len(kinds)}: {shown}"
        )
    return texts, [kind == positive for kind in labels]
