"""How to sample: ``SamplingParams``, ``Constraint``, and the random streams of a search tree.

Random numbers depend on the position in the tree, not on a generator's state: the noise of a token
is a function of (seed, prompt, random stream, token index). Batch composition, micro-batches and
the order of requests therefore never change a sample.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field

from w2s_chains.core.configs import Config
from w2s_chains.errors import ConfigError, did_you_mean, shown
from w2s_chains.values import is_text, number, refuse_excess, whole_number


def _as_tuple(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def _as_seed(value: int) -> int:
    if value.bit_length() > 128:
        raise ValueError(f"a seed has at most 128 bits, but this one has {value.bit_length():,}")
    return value


MOST_TOKENS = 2**20
"""The most tokens of an answer or a chunk."""

MOST_BRANCHES = 2**16
"""The most partial answers of one search, and the most answers per prompt."""

SMALLEST, LARGEST = 1e-6, 1e6
"""The limits of factors and weights: beyond them, float32 loses what they are applied to."""

Whole = BeforeValidator(whole_number)
Real = BeforeValidator(number)

Weight = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False), Real]
NotNegative = Annotated[float, Field(ge=0.0, le=LARGEST, allow_inf_nan=False), Real]
Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST, allow_inf_nan=False), Real]

MaxTokens = Annotated[int, Field(ge=1, le=MOST_TOKENS), Whole]
Temperature = NotNegative
TopP = Annotated[float, Field(ge=SMALLEST, le=1.0), Real]
MinP = Annotated[float, Field(ge=0.0, le=1.0), Real]
TopK = Annotated[int, Field(ge=1), Whole]
RepetitionPenalty = Positive
Seed = Annotated[int, AfterValidator(_as_seed), Whole]
Branches = Annotated[int, Field(ge=1, le=MOST_BRANCHES), Whole]
ChunkTokens = Annotated[int, Field(ge=1, le=MOST_TOKENS), Whole]
Stop = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple)]


_KINDS = ("json_schema", "regex", "lark")


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """The form that the whole answer must have; the sampling backend compiles it.

    Attributes:
        kind: The language of ``source``.
        source: A JSON schema as JSON text, whose properties keep their order in the answer; a
            regular expression without look-around; or a grammar in llguidance's variant of Lark.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            hint = did_you_mean(str(self.kind), _KINDS)
            raise ConfigError(f"Constraint: kind {shown(self.kind)} is unknown{hint}")
        if not is_text(self.source):
            raise ConfigError(f"Constraint: source must be text, not {shown(self.source)}")

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Constraint:
        """Require an answer that is only JSON and valid under ``schema``.

        Raises:
            ConfigError: ``schema`` is no mapping of what JSON can hold.
        """
        refuse_excess(schema, "Constraint.json_schema")
        try:
            if isinstance(cast("object", schema), Mapping):
                return cls(kind="json_schema", source=json.dumps(schema, allow_nan=False))
            fault = "it is no mapping"
        except (TypeError, ValueError) as error:
            fault = str(error)
        raise ConfigError(f"Constraint.json_schema: {shown(schema)} is no JSON schema: {fault}")

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """Require an answer that matches ``pattern`` as a whole."""
        return cls(kind="regex", source=pattern)

    @classmethod
    def lark(cls, grammar: str) -> Constraint:
        """Require a sentence of ``grammar``, in which ``%json {...}`` embeds a JSON schema."""
        return cls(kind="lark", source=grammar)


class SamplingParams(Config):
    """How the proposer samples. No filter or penalty applies unless it is set here.

    Attributes:
        max_tokens: Maximum tokens of an answer, including the end token.
        temperature: Divides the logits; 0 decodes greedily.
        top_p: Nucleus sampling: keep the smallest set of tokens with at least this probability.
        top_k: Keep the k most likely tokens; None keeps all.
        min_p: Keep the tokens that are at least this fraction as likely as the likeliest one
            (Nguyen et al., 2024); 0 keeps all.
        repetition_penalty: Values above 1 make tokens of the prompt and the answer less likely
            (Keskar et al., 2019).
        stop: Strings that end the answer; they are not part of it.
        seed: Makes answers reproducible: they depend only on the prompt, the parameters and the
            seed. None draws a new seed for every prompt of every call.
    """

    max_tokens: MaxTokens = 256
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK | None = None
    min_p: MinP = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    stop: Stop = ()
    seed: Seed | None = None

    @property
    def filters(self) -> bool:
        """Whether some tokens can never be sampled, however likely steering makes them."""
        return self.top_p < 1 or self.top_k is not None or self.min_p > 0 or not self.temperature


DEFAULT_SAMPLING = SamplingParams()


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


def fork(stream: int, *at: int) -> int:
    """Return a new random stream that branches off ``stream``, as 63 bits."""
    return int.from_bytes(_digest(stream, *at), "little") >> 1


def random_stream(seed: int, prompt: object) -> random.Random:
    """Return random numbers for a strategy: a function of the seed and the prompt's ``repr``."""
    return random.Random(int.from_bytes(_digest("strategy", seed, prompt), "little"))


def noise_key(*place: object) -> tuple[int, int]:
    """Return two int32 words for a position in the tree."""
    digest = _digest(*place)
    return (
        int.from_bytes(digest[:4], "little", signed=True),
        int.from_bytes(digest[4:], "little", signed=True),
    )


GREEDY_BELOW = SMALLEST
"""Below this temperature the best token is taken: noise would vanish in float32, and at far lower
temperatures the logits would overflow."""
_WORD = 0xFFFFFFFF


def log_exponential(key: tuple[int, int], word: int) -> float:
    """Return the logarithm of standard exponential noise for one token (or another 32-bit word).

    ``argmax(logits - log_exponential)`` is a sample from softmax(logits) (Gumbel-max trick). This
    is the noise of ``backend.lm.logits.log_exponential``, for a few tokens and without torch.
    """
    bits = _mix(_mix(word & _WORD) ^ key[0] & _WORD, (key[1] | 1) & _WORD) & 0x7FFFFFFF
    return math.log(-math.log1p(-(bits + 0.5) * 2.0**-31))


def _mix(x: int, factor: int = 1) -> int:
    """Hash 32 bits, bijectively for an odd ``factor`` (the "lowbias32" mixer)."""
    x = x * factor & _WORD
    for shift, odd in ((16, 0x21F0AAAD), (15, 0xD35A2D97), (15, 1)):
        x = (x ^ x >> shift) * odd & _WORD
    return x
