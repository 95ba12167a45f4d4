"""Grammars, and models that write under them whatever they like."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from tests.helpers import tiny
from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.constrained.compile import byte_matcher, shortest_answer
from w2s_chains.backend.constrained.endings import next_bytes, shortest_ending
from w2s_chains.backend.constrained.grammar import Grammar, Grammars, GrammarState, allowed, choose
from w2s_chains.backend.constrained.words import words_of
from w2s_chains.backend.loading.embedded import embedded_path
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.sampling import Constraint

CPU = torch.device("cpu")
NO_LIMIT = 10**6


@functools.cache
def grammars() -> Grammars:
    tokenizer = AutoTokenizer.from_pretrained(embedded_path("smollm2-135m-instruct"))
    return Grammars(Tokenizer(tokenizer, PromptTemplate(), (2, 0)))


@functools.cache
def tiny_grammars() -> Grammars:
    """A vocabulary of 320 tokens, most of them single bytes: emoji and CJK are cut everywhere."""
    return Grammars(Tokenizer(tiny.byte_tokenizer(), PromptTemplate(), ()))


def compiled(schema: dict[str, Any]) -> Grammar:
    return grammars().compile(Constraint.json_schema(schema))


def decode(grammar: Grammar, ids: Sequence[int]) -> str:
    pieces = grammar.vocabulary.pieces
    return b"".join(pieces[token] for token in ids).decode()


def needed(state: GrammarState) -> int:
    return int(state.grammar.vocabulary.tokens_of(state.ending)) + 1


def spelt(grammar: Grammar, text: str) -> tuple[int, ...]:
    ids = grammar.vocabulary.spell(text.encode())
    assert ids is not None
    return ids


@functools.cache
def closers(size: int) -> Tensor:
    """Tokens that a rambling model never takes if there is any other."""
    vocabulary = (grammars() if size > 1000 else tiny_grammars()).vocabulary
    ends = [t for t, piece in vocabulary.pieces.items() if set(piece) & set(b'"}]>.')]
    result = torch.zeros(size)
    result[[*ends, *vocabulary.end_ids]] = 1
    return result


def walk(
    grammar: Grammar,
    left: int,
    scores: Callable[[int], Tensor],
    steps: int | None = None,
    budget: bool = True,
) -> tuple[list[int], GrammarState]:
    """Take the best allowed token at every step. Without a budget any number may be left."""
    state, ids = grammar.start, []
    for step in range(left if steps is None else steps):
        mask = allowed([state], grammar.vocabulary.size, CPU)
        row = scores(step)[None].masked_fill(~mask, float("-inf"))
        (token,), (state,) = choose(row, [state], [left - step if budget else NO_LIMIT])
        if state.ended:
            break
        ids.append(token)
        assert not budget or needed(state) <= left - step - 1, "the invariant of the budget"
    return ids, state


def uniform(grammar: Grammar, seed: int) -> Callable[[int], Tensor]:
    """A uniformly random token."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.rand(grammar.vocabulary.size, generator=generator)


def rambling(grammar: Grammar, seed: int) -> Callable[[int], Tensor]:
    """A random token, but nothing that closes a string, a list or an object."""
    draw = uniform(grammar, seed)
    return lambda step: draw(step) - closers(grammar.vocabulary.size)


def opening(grammar: Grammar, seed: int) -> Callable[[int], Tensor]:
    """A random token with as much structure as there is: opens, nests and adds."""
    marks = b'{[,":\\'
    weight = torch.zeros(grammar.vocabulary.size)
    for token, piece in grammar.vocabulary.pieces.items():
        weight[token] = sum(byte in marks for byte in piece) / len(piece)
    draw = uniform(grammar, seed)
    return lambda step: draw(step) * 0.5 + weight


MODELS = {"uniform": uniform, "rambling": rambling, "opening": opening}


def accepts(grammar: Grammar, text: str) -> bool:
    state: GrammarState | None = grammar.start
    ids = grammar.vocabulary.spell(text.encode())
    assert ids is not None
    for token in ids:
        state = state.advance(token, NO_LIMIT) if state is not None else None
    return state is not None and state.accepting


@functools.cache
def shortest(constraint: Constraint) -> bytes:
    return shortest_answer(constraint)


def completion(constraint: Constraint, seed: int, spare: int = 40) -> str:
    """A random text under a constraint, byte by byte, that is ended after ``spare`` bytes or so."""
    rng = random.Random(seed)
    state, text = byte_matcher(constraint), b""
    hint = shortest(constraint)
    while not state.is_stopped() and len(text) < spare:
        if state.is_accepting() and rng.random() < 0.3:
            return text.decode()
        allowed_bytes = [byte for byte in next_bytes(state) if byte < 128]
        if not allowed_bytes:
            break
        signs = [byte for byte in allowed_bytes if not chr(byte).isalnum()]
        byte = rng.choice(signs if signs and rng.random() < 0.3 else allowed_bytes)
        state.consume_token(byte)
        text += bytes([byte])
    ending = shortest_ending(state, hint=hint, words=words_of(constraint))
    assert ending is not None, text
    return (text + ending).decode()
