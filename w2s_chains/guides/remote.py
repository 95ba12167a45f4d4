"""``RemoteGuide``: a small model behind an OpenAI-compatible server as a guide."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import SecretStr

from w2s_chains.backend.remote.event_loop import all_of, wait_for
from w2s_chains.backend.remote.findings import Findings
from w2s_chains.backend.remote.server import Server
from w2s_chains.backend.text.incremental import common_prefix
from w2s_chains.core.contracts import Guide
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.errors import ConfigError, ServerError, W2SError
from w2s_chains.guides.config import RemoteGuideConfig

_PROBE = (
    "Once upon a time there was a small house by the sea, and in it lived an old man who wrote "
    "letters to the moon"
)
_ATTEMPTS = 40
"""The most samples to draw; one is enough unless the server's model is tiny and incoherent."""
_ENOUGH = 4
"""The number of tokens to compare between both readings before a server is trusted."""
_CLOSE = 0.1
"""The largest difference in nats between two readings of the same token, on any device."""


class RemoteGuide(Guide):
    """Get loglikelihoods of partial answers from a server.

    Prompt and answer are sent as text, and the server tokenizes and reads both again for every
    chunk: prefer a local guide if there is room for one. All of it is counted as read, whatever a
    cache of the server may spare it. The server is tested before its first use,
    and again if it may be another one: it samples a text, then scores it, and the logprobs must
    agree.

    Attributes:
        spec: Where the model is and how it reads a prompt.
    """

    def __init__(
        self, model: str, *, api_key: str | SecretStr | None = None, **options: Any
    ) -> None:
        """Connect to a model.

        Args:
            model: The model's name on the server.
            api_key: The key; by default the value of the environment variable ``api_key_env``.
            **options: Fields of ``RemoteGuideConfig``: base_url, template, end, timeout, ...

        Raises:
            ConfigError: An option is misspelt or out of range, or the key cannot be sent.
        """
        key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        self._adopt(RemoteGuideConfig(model=model, **options), key)

    @classmethod
    def from_spec(cls, spec: RemoteGuideConfig) -> RemoteGuide:
        """Connect to the model that ``spec`` describes; raises like the constructor."""
        self = cls.__new__(cls)
        self._adopt(spec, None)
        return self

    def _adopt(self, spec: RemoteGuideConfig, api_key: SecretStr | None) -> None:
        self.spec = spec
        self._server = Server(spec, api_key)
        self._prompts: WeakKeyDictionary[Hypothesis, list[str]] = WeakKeyDictionary()
        self._found = Findings(self._measured, self._is_still)

    def __repr__(self) -> str:
        return f"RemoteGuide({self._server.name})"

    def probe(self) -> None:
        """Test the server now rather than before its first use; raises like ``loglikelihood``."""
        wait_for(self._found.get)

    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Return log p(response | prompt) of each hypothesis, in nats.

        The sum runs over the server's tokens after the longest common prefix of prompt and
        prompt + response, and includes the token ``spec.end`` if the hypothesis ended its turn.

        Raises:
            ConfigError: The server returns no logprobs of prompts, or wrong ones.
            ServerError: The server does not answer.
            CancelledError: The search was cancelled.
        """
        return wait_for(self._loglikelihoods, hypotheses) if hypotheses else []

    async def _loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        await self._found.get()
        try:
            return await self._sums(hypotheses)
        except W2SError:
            self._found.doubt()
            raise

    async def _sums(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        roots = dict.fromkeys(h.origin for h in hypotheses)
        new = [root for root in roots if root not in self._prompts]
        for root, (tokens, _) in zip(
            new, await all_of(self._read, map(self._text, new)), strict=True
        ):
            self._prompts[root] = tokens
            root.usage.add_guide(len(tokens))
        readings = await all_of(self._read, map(self._text, hypotheses))
        values: list[float] = []
        for h, (tokens, logprobs) in zip(hypotheses, readings, strict=True):
            h.usage.add_guide(len(tokens))
            values.append(math.fsum(logprobs[common_prefix(self._prompts[h.origin], tokens) :]))
        return values

    def _text(self, hypothesis: Hypothesis) -> str:
        prompt = self.spec.template.replace("{prompt}", hypothesis.prompt.plain_text)
        end = self.spec.end if hypothesis.ended and self.spec.end else ""
        return prompt + hypothesis.response + end

    async def _read(self, text: str) -> tuple[list[str], list[float]]:
        """Return the server's tokens of a text and their logprobs; the first logprob is 0.

        Raises:
            ConfigError: The server does not return them.
            ServerError: The server does not answer.
        """
        if not text:
            raise ConfigError(
                f"the prompt is empty, and {self._server.name} needs a text to begin from; give a "
                "template with text around '{prompt}'"
            )
        # Not max_tokens=0: some servers then generate until their context is full.
        body = {"prompt": text, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
        try:
            reply = await self._server.complete(body)
        except ServerError as error:
            if not self._found.known and error.status in (400, 404, 405, 422, 500, 501):
                raise self._refused(f"it refuses to score a text: {error}") from error
            raise
        told, usage = reply.choices[0].logprobs, reply.usage
        if told is None or usage is None:
            raise self._refused("it tells no log-probabilities, or no number of prompt tokens")
        tokens = told.tokens[: usage.prompt_tokens]
        # Nothing predicts the first token.
        logprobs = [0.0, *told.token_logprobs[1 : usage.prompt_tokens]]
        known = [value for value in logprobs if value is not None and math.isfinite(value)]
        if not len(tokens) == len(known) == usage.prompt_tokens:
            raise self._refused("it does not tell the log-probability of every prompt token")
        return tokens, known

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self._server.name} cannot be a guide: {why}; use a server that tells "
            "log-probabilities of prompts (vLLM: completions with echo), or a local guide"
        )

    async def _is_still(self, before: Sequence[float]) -> bool:
        """Return whether the server reads a text as it did when it was tested."""
        try:
            _, now = await self._read(_PROBE)
        except (ConfigError, ServerError) as error:
            if isinstance(error, ServerError) and error.passing:
                raise
            return False
        return len(now) == len(before) and all(
            abs(a - b) < _CLOSE for a, b in zip(now, before, strict=True)
        )

    async def _measured(self) -> list[float]:
        """Have the server score texts that it has sampled; return the logprobs of ``_PROBE``.

        Both must agree. This detects servers that ignore parameters, and servers that are off by
        one token.
        """
        known, before = await self._read(_PROBE)
        words = _PROBE.split(" ")
        compared: list[float] = []
        for attempt in range(_ATTEMPTS):
            prompt = " ".join(words[: 3 + attempt % (len(words) - 3)])
            body = {"prompt": prompt, "max_tokens": 8, "temperature": 1.0, "top_p": 1.0}
            reply = await self._server.complete({**body, "seed": attempt, "logprobs": 1})
            told, usage = reply.choices[0].logprobs, reply.usage
            if told is None or usage is None:
                raise self._refused("it tells no log-probabilities of what it samples")
            tokens, logprobs = await self._read(prompt + reply.choices[0].text)
            count = usage.prompt_tokens
            if (shared := common_prefix(known, tokens)) < count:
                continue
            # The text may tokenize differently from what was sampled, and all partial characters
            # look the same: compare only the tokens before them.
            whole = list(itertools.takewhile(lambda token: "\ufffd" not in token, told.tokens))
            same = common_prefix(whole, tokens[count:])
            sampled = told.token_logprobs[:same]
            pairs = [
                *zip(before[:shared], logprobs[:shared], strict=True),
                *zip(sampled, logprobs[count : count + same], strict=True),
            ]
            if any(then is None or abs(then - now) > _CLOSE for then, now in pairs):
                raise self._refused("it scores a text otherwise than when it sampled it")
            compared += logprobs[count : count + same]
            if len(compared) >= _ENOUGH and min(compared) < -_CLOSE:
                break
        else:
            raise self._refused("its samples are not what it says they are made of")
        if self.spec.end is not None:
            ended, _ = await self._read(_PROBE + self.spec.end)
            if len(ended) != len(known) + 1 or ended[:-1] != known:
                raise self._refused(f"end {self.spec.end!r} is not one token there; correct it")
        self._prompts.clear()  # another server may have read them
        return before
