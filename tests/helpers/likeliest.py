"""Models for ``served.Server`` that tell the likeliest tokens, named as real servers name them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from tests.helpers.served import Continued, Tiny, digest, greedy

Names = Literal["texts", "pieces", "content"]


class TellingTiny(Tiny):
    """A tiny model that tells log-probabilities.

    Attributes:
        names: "texts" (vLLM; by ids if it is asked to), "pieces" (those of the vocabulary, so
            that a space is another letter), or "content" (llama.cpp: ids, bytes, no control
            tokens).
        told: Changes the likeliest tokens of a position before they are sent.
    """

    def __init__(self, model: Any, tokenizer: Any, names: Names = "texts") -> None:
        super().__init__(model, tokenizer)
        self.names: Names = names

    def told(self, top: dict[str, float]) -> Any:
        return top

    @torch.inference_mode()
    def go_on(self, ids: Sequence[int] | str, body: Mapping[str, Any], index: int) -> Continued:
        one = super().go_on(ids, body, index)
        if not (most := body.get("logprobs")):
            return one
        given, new = self.read(ids) if isinstance(ids, str) else list(ids), one.token_ids or []
        with self._lock:
            logits = self.model(torch.tensor([given + new])).logits[0, len(given) - 1 :]
        table = logits.float().log_softmax(1)[:, : len(self.tokenizer)]
        by_id = bool(body.get("return_tokens_as_token_ids"))
        rows = [
            [(int(i), float(table[at, i])) for i in (*table[at].topk(most).indices, token)]
            for at, token in enumerate(new)
        ]
        if self.names == "content":
            positions = [[self.entry(*pair) for pair in row] for row in rows]
            content = [{**row[-1], "top_logprobs": row[:-1]} for row in positions]
            return replace(one, logprobs={"content": content}, token_ids=None)
        return replace(
            one,
            logprobs={
                "tokens": [self.name(token, by_id) for token in new],
                "token_logprobs": [row[-1][1] for row in rows],
                "top_logprobs": [
                    self.told({self.name(i, by_id): value for i, value in row}) for row in rows
                ],
            },
        )

    def name(self, token: int, by_id: bool) -> str:
        if by_id:
            return f"token_id:{token}"
        if self.names == "pieces":
            return self.tokenizer.convert_ids_to_tokens(token)
        return self.tokenizer.decode([token])

    def entry(self, token: int, logprob: float) -> dict[str, Any]:
        special = token in self.tokenizer.added_tokens_decoder
        raw = b"" if special else token_bytes(self.tokenizer.convert_ids_to_tokens(token))
        text = raw.decode(errors="ignore")
        return {"id": token, "token": text, "bytes": list(raw), "logprob": logprob}


@functools.cache
def token_bytes(piece: str) -> bytes:
    """The bytes of a byte-level piece: GPT-2 shifts those that do not print."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return bytes(shifted[ord(x) - 256] if ord(x) > 255 else ord(x) for x in piece)


class TellingWords:
    """Words with log-probabilities that depend on the text; a word may end the turn.

    Attributes:
        told: Changes the mapping of a position before it is sent.
    """

    vocabulary = (
        " one", " two", " three", " four", " five", " six", " seven", " eight", " nine", " ten",
        " eleven", " twelve",
    )  # fmt: skip

    def __init__(self, end: str | None = None) -> None:
        self.names = [*self.vocabulary, *([end] if end else [])]
        self.end = end

    def read(self, prompt: str) -> list[int]:
        return [ord(letter) for letter in prompt]

    def told(self, top: dict[str, float]) -> Any:
        return top

    def chances(self, text: str) -> dict[str, float]:
        """log p of each word after a text."""
        weights = [1.0 + digest(text, name) % 100 for name in self.names]
        values = (torch.tensor(weights).double() / sum(weights)).log().tolist()
        return dict(zip(self.names, values, strict=True))

    def go_on(self, ids: Sequence[int] | str, body: Mapping[str, Any], index: int) -> Continued:
        assert isinstance(ids, str)
        text, names, tops = "", list[str](), list[Any]()
        for _ in range(body["max_tokens"]):
            chances = self.chances(ids + text)
            ranked = sorted(chances, key=lambda name: -chances[name])
            at = 0 if greedy(body) else digest(ids + text, body["seed"], index) % len(ranked)
            names.append(ranked[at])
            listed = [*ranked[: body.get("logprobs", 0)], ranked[at]]
            tops.append(self.told({name: chances[name] for name in listed}))
            if ranked[at] == self.end:
                break
            text += ranked[at]
        ended = names[-1] == self.end
        logprobs = {"tokens": names, "token_logprobs": [-1.0] * len(names), "top_logprobs": tops}
        return Continued(
            text=text,
            finish_reason="stop" if ended else "length",
            count=len(names) - ended,
            logprobs=logprobs if body.get("logprobs") else None,
        )
