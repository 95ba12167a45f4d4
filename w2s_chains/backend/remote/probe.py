"""``probe``: find out what a server can do by trying: servers ignore fields they do not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from w2s_chains.backend.remote.event_loop import all_of
from w2s_chains.backend.remote.replies import CONTROL, Choice, Reply, TopToken
from w2s_chains.backend.remote.server import Server
from w2s_chains.errors import ServerError

PROBE = "Once upon a time, in 1986, the owner of a small café said:"
_TOKENS = 4
_RETRIES = 2
_HOT = 2.0
"""A temperature at which two samples of four tokens differ with any model."""
_CLOSE = 0.1
"""Largest difference, in nats, between two scores of the same token on any device."""
_TOPS = (64, 20, 5)
"""How many of the likeliest tokens to ask for: any, vLLM's default limit, and OpenAI's limit."""
_PIECES = 16
"""Tokens of a text to compare with their names; there are spaces among them in most languages."""

_FILTERS_OFF: Sequence[Mapping[str, Any]] = (
    {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0},
    {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0},
    {},
)
"""Fields that switch all sampling filters off: for vLLM and llama.cpp, for SGLang, for OpenAI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a server can do.

    Attributes:
        completions: It continues texts. If not, it only chats, and returns whole answers.
        chat: It answers chat messages; None if that was not tried.
        n: It returns several continuations in one call.
        seed: Equal seeds give equal samples, different seeds different ones.
        token_ids: It accepts a prompt as token ids, and returns those of prompt and continuation.
        logprobs: It returns log-probabilities of the tokens that it samples.
        top_logprobs: How many of the likeliest tokens of a position it tells; 0 if it tells none.
        top_texts: It names them by the very text that they add to the answer.
        top_ids: It names them by their token ids if it is asked to.
        echo: It also returns log-probabilities of a prompt, and they are correct.
        top_k: It obeys top_k.
        min_p: It obeys min_p.
        repetition_penalty: It accepts a repetition penalty; whether it obeys was not tried.
        filters_off: Fields that make it sample from the whole distribution.
        probe_ids: Its token ids of ``PROBE``, if it returns them.
        unknown: What could not be found out, because the server was busy or not reached, and why.
            It counts as something the server cannot do.
        first: The first text to continue that it accepted, and how it continued it.
    """

    completions: bool
    chat: bool | None = None
    n: bool = False
    seed: bool = False
    token_ids: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    top_texts: bool = False
    top_ids: bool = False
    echo: bool = False
    top_k: bool = False
    min_p: bool = False
    repetition_penalty: bool = False
    filters_off: Mapping[str, Any]
    probe_ids: tuple[int, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict[str, str])
    first: tuple[Mapping[str, Any], str] | None = None


async def probe(server: Server) -> Capabilities:
    """Find out what a server can do, with about a dozen calls of few tokens.

    Raises:
        ServerError: It neither continues texts nor answers messages.
    """
    try:
        return await _probe_completions(server)
    except ServerError as error:
        if error.status not in (400, 404, 405, 501):
            raise
        try:
            return await _probe_chat(server)
        except ServerError as chat:
            raise (chat if chat.passing else error) from None


async def still(server: Server, can: Capabilities) -> bool:
    """Return whether the server surely is the one that ``can`` tells of; one call of four tokens.

    Raises:
        ServerError: It is busy or was not reached.
    """
    if can.first is None:
        return False
    body, text = can.first
    try:
        reply = await server.complete(body)
    except ServerError as error:
        if error.passing:
            raise
        return False
    return _text(reply) == text


async def _probe_completions(server: Server) -> Capabilities:
    body, first = await _accepted(server)
    hot = {**body, "temperature": _HOT}
    ids = first.choices[0].prompt_token_ids
    unknown: dict[str, str] = {}
    ask = partial(_try, server, unknown)
    continued, same, again, other, two, top, likely, scored = await all_of(
        lambda one: ask(*one),
        (
            ("token_ids", {**body, "prompt": ids} if ids else None),
            ("seed", {**hot, "seed": 1}),
            ("seed", {**hot, "seed": 1}),
            ("seed", {**hot, "seed": 2}),
            ("n", {**hot, "n": 2}),
            ("top_k", {**hot, "top_k": 1} if "top_k" in body else None),
            ("min_p", {**hot, "min_p": 1.0} if "min_p" in body else None),
            ("logprobs", {**body, "logprobs": 1}),
        ),
    )
    logprobs = scored is not None and scored.choices[0].logprobs is not None
    token_ids = (
        first.choices[0].token_ids is not None
        and continued is not None
        and continued.choices[0].token_ids == first.choices[0].token_ids
    )
    most, texts, by_ids = (
        await _tops(server, unknown, body, first.choices[0], token_ids)
        if logprobs
        else (0, False, False)
    )
    return Capabilities(
        completions=True,
        n=two is not None and len(two.choices) == 2,
        seed=None not in (same, again, other) and _text(same) == _text(again) != _text(other),
        token_ids=token_ids,
        logprobs=logprobs,
        top_logprobs=most,
        top_texts=texts,
        top_ids=by_ids,
        echo=logprobs and await _echoes(server, unknown, body, scored),
        top_k=top is not None and _text(top) == _text(first),
        min_p=likely is not None and _text(likely) == _text(first),
        repetition_penalty="repetition_penalty" in body,
        filters_off={name: body[name] for name in _FILTERS_OFF[0] if name in body},
        probe_ids=tuple(ids or ()),
        unknown=unknown,
        first=(body, first.choices[0].text),
    )


async def _accepted(server: Server) -> tuple[dict[str, Any], Reply]:
    """Find the most explicit request that the server accepts; return it with the reply."""
    refused: ServerError | None = None
    for ids in ({"return_token_ids": True}, {}):
        for off in _FILTERS_OFF:
            body: dict[str, Any] = {
                "prompt": PROBE,
                "max_tokens": _TOKENS,
                "temperature": 0.0,
                "top_p": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "n": 1,
                "seed": 1,
                **off,
                **ids,
            }
            try:
                return body, await server.complete(body)
            except ServerError as error:
                if error.status not in (400, 422):
                    raise
                refused = refused or error
    assert refused is not None
    raise refused


async def _try(
    server: Server, unknown: dict[str, str], name: str, body: Mapping[str, Any] | None
) -> Reply | None:
    """Return the reply, or None if the call fails; note in ``unknown`` if that proves nothing."""
    if body is None:
        return None
    try:
        return await server.complete(body, retries=min(_RETRIES, server.options.max_retries))
    except ServerError as error:
        if error.passing:
            unknown[name] = str(error)
        return None


def _text(reply: Reply | None) -> str | None:
    return None if reply is None else reply.choices[0].text


async def _tops(
    server: Server, unknown: dict[str, str], body: Mapping[str, Any], greedy: Choice, ids: bool
) -> tuple[int, bool, bool]:
    """Return ``top_logprobs``, ``top_texts`` and ``top_ids`` of ``Capabilities``.

    At temperature 1 without filters the log-probabilities are those of the model, whether a server
    takes them before it shapes the distribution or after.
    """
    for most in _TOPS:
        asked = {**body, "temperature": 1.0, "max_tokens": _PIECES, "logprobs": most}
        by_text = await _try(server, unknown, "top_logprobs", asked)
        found = 0 if by_text is None else _likeliest(by_text.choices[0], greedy)
        if by_text is None or not found:
            if "top_logprobs" in unknown:
                break
            continue
        by_ids = None
        if ids:
            asked["return_tokens_as_token_ids"] = True
            by_ids = await _try(server, unknown, "top_logprobs", asked)
        named = by_ids is not None and _are_ids(by_ids.choices[0], greedy)
        if by_ids is not None and named:  # tokens that have one name count once
            found = _likeliest(by_ids.choices[0], greedy)
        return min(found, most), _are_pieces(by_text.choices[0]), named
    return 0, False, False


def _likeliest(choice: Choice, greedy: Choice) -> int:
    """Return how many tokens are told of a position, if the likeliest one begins ``greedy``."""
    tops = choice.logprobs.tops() if choice.logprobs else []
    if not tops or min(map(len, tops)) < 2:
        return 0
    [best, *others] = tops[0]
    close = [best, *(one for one in others if best.logprob - one.logprob < _CLOSE)]
    texts = [one.whole for one in close]
    # Half a character, an id and the end of a turn have no text to look for. A server may leave out
    # the space at the begin of a token.
    known = greedy.text and all(text and not CONTROL.fullmatch(text) for text in texts)
    known = known and all(one.named_id is None for one in close)
    if known and not any(greedy.text.lstrip().startswith((text or "").lstrip()) for text in texts):
        return 0
    return max(map(len, tops))


def _are_ids(choice: Choice, greedy: Choice) -> bool:
    """Return whether all names are token ids, and the likeliest one begins ``greedy``."""
    tops = choice.logprobs.tops() if choice.logprobs else []
    if not tops or any(one.named_id is None for position in tops for one in position):
        return False
    best = tops[0][0].logprob
    close = [one.named_id for one in tops[0] if best - one.logprob < _CLOSE]
    return bool(greedy.token_ids) and greedy.token_ids[0] in close


def _are_pieces(choice: Choice) -> bool:
    """Return whether the text consists of its tokens' names, up to the first half character.

    Where a tokenizer marks the begin of a word ("\u2581I"), some servers write the mark, and others
    nothing, so that their names would be glued to the word before.
    """
    rest = choice.text
    for name in choice.logprobs.tokens if choice.logprobs else ():
        if TopToken(token=name, logprob=0.0).whole is None:
            return True
        if rest.startswith(name):
            rest = rest[len(name) :]
        elif not CONTROL.fullmatch(name) and rest:
            return False
    return True


async def _echoes(
    server: Server, unknown: dict[str, str], body: Mapping[str, Any], scored: Reply | None
) -> bool:
    """Check whether the server scores a text just as it did when it sampled it."""
    sampled = None if scored is None else scored.choices[0].logprobs
    if sampled is None:
        return False
    text = PROBE + (_text(scored) or "")
    # Not max_tokens=0: some servers would continue to the end of their context. No token ids: with
    # them vLLM leaves the prompt out of the text.
    asked = {name: value for name, value in body.items() if name != "return_token_ids"}
    request = {**asked, "prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1}
    echoed = await _try(server, unknown, "echo", request)
    read = None if echoed is None else echoed.choices[0].logprobs
    if read is None or not (_text(echoed) or "").startswith(text):
        return False
    then = sampled.token_logprobs
    now = read.token_logprobs[:-1][-len(then) :]
    return len(then) == len(now) > 0 and all(
        a is not None and b is not None and abs(a - b) < _CLOSE
        for a, b in zip(then, now, strict=True)
    )


async def _probe_chat(server: Server) -> Capabilities:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": PROBE}],
        "max_tokens": _TOKENS,
        "temperature": _HOT,
        "top_p": 1.0,
        "n": 2,
        "seed": 1,
    }
    refused: ServerError | None = None
    for off in _FILTERS_OFF:
        try:
            reply = await server.chat({**body, **off})
            break
        except ServerError as error:
            if error.status not in (400, 422):
                raise
            refused = refused or error
    else:
        assert refused is not None
        raise refused
    return Capabilities(
        completions=False,
        chat=True,
        n=len(reply.choices) == 2,
        repetition_penalty=bool(off),
        filters_off=off,
    )
