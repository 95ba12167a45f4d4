"""How to sample: ``SamplingParams``, ``Constraint``, and the random streams of a tree.

Random numbers belong to a place in the tree, not to a generator's state: the noise of a token is a
function of (seed, prompt, random stream, number of the token), so neither batch mates nor
micro-batches nor the order of requests change a sample.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from w2s_chains.core.configs import Config


def _as_tuple(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


MaxTokens = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0.0, le=1.0)]
TopK = Annotated[int, Field(ge=1)]
RepetitionPenalty = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Stop = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What form the whole answer must have; a value, compiled by the backend that samples.

    Attributes:
        kind: The language of ``source``.
        source: A JSON schema as JSON, whose order of properties is the order in the answer; a
            regular expression without look-around; or a grammar in llguidance's variant of Lark.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Constraint:
        """The answer is JSON that is valid under ``schema``, with nothing around it."""
        return cls(kind="json_schema", source=json.dumps(schema))

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """The answer matches ``pattern`` from its first to its last character."""
        return cls(kind="regex", source=pattern)

    @classmethod
    def lark(cls, grammar: str) -> Constraint:
        """The answer is a sentence of ``grammar``; ``%json {...}`` stands for JSON of a schema."""
        return cls(kind="lark", source=grammar)


class SamplingParams(Config):
    """How the proposer samples, exactly as asked: nothing is filtered unless it is set here.

    Attributes:
        max_tokens: Most tokens of an answer, the end token included.
        temperature: Divides the logits; 0 is greedy.
        top_p: Nucleus sampling: keep the smallest set of tokens with at least this probability.
        top_k: Keep the k most likely tokens; None keeps all.
        repetition_penalty: Above 1 makes tokens of the prompt and of the answer less likely
            (Keskar et al., 2019).
        stop: The answer ends before the first of these strings.
        seed: The answer is a function of the prompt, the parameters and this seed; None draws a
            fresh seed for every prompt of every call.
    """

    max_tokens: MaxTokens = 256
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK | None = None
    repetition_penalty: RepetitionPenalty = 1.0
    stop: Stop = ()
    seed: int | None = None


DEFAULT_SAMPLING = SamplingParams()


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


def fork(stream: int, *at: int) -> int:
    """A new random stream that branches off ``stream``; 63 bits."""
    return int.from_bytes(_digest(stream, *at), "little") >> 1


def noise_key(*place: object) -> tuple[int, int]:
    """Two int32 words for a place in the tree."""
    digest = _digest(*place)
    return (
        int.from_bytes(digest[:4], "little", signed=True),
        int.from_bytes(digest[4:], "little", signed=True),
    )
