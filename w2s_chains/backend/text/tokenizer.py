"""``Tokenizer``: turn prompts into one model's tokens, and tokens into text chunk by chunk."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from w2s_chains.backend.chat.chat_template import ChatTemplate
from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.chat.turns import turns_of
from w2s_chains.backend.text.control_tokens import ControlTokens
from w2s_chains.backend.text.generation import Suppressed
from w2s_chains.backend.text.incremental import Boundaries, Place, find_boundaries
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Message, Prompt, ThoughtFormat
from w2s_chains.errors import ConfigError, PromptError, RawPromptWarning
from w2s_chains.forks import ForkSafeLock

_REPLACEMENT = "\ufffd"
_LONGEST_PENDING = 3
"""Most tokens that are held back while a UTF-8 character lacks bytes."""
_CONTEXT = 8
"""Tokens before a chunk to decode together with it, because some decoders drop a leading space."""
REACH = _CONTEXT + _LONGEST_PENDING
"""The most tokens before a chunk that decoding it looks at."""
_locks: WeakKeyDictionary[Any, ForkSafeLock] = WeakKeyDictionary()
"""One lock per Hugging Face tokenizer, which several instances of ``Tokenizer`` may share."""


class Tokenizer:
    """One model's tokenizer together with its prompt template."""

    def __init__(
        self,
        hf_tokenizer: Any,
        template: PromptTemplate,
        end_ids: Sequence[int],
        suppressed: Suppressed | None = None,
    ) -> None:
        """Wrap a tokenizer.

        Args:
            hf_tokenizer: A transformers tokenizer.
            template: How to render prompts.
            end_ids: Tokens with which the model ends its turn, besides the tokenizer's own.
            suppressed: Tokens that the model does not say.

        Raises:
            ConfigError: The template needs a chat template, and the tokenizer has none.
        """
        self.hf_tokenizer = hf_tokenizer
        self.template = template
        self.name: str = hf_tokenizer.name_or_path
        # Callers check prompts on their own threads while the model thread reads, and transformers
        # tokenizers are not thread-safe.
        self.lock = _locks.setdefault(hf_tokenizer, ForkSafeLock())
        self.chat: ChatTemplate | None = None
        """The chat template that renders prompts; None if prompts are read as plain text."""
        if template.chat and hf_tokenizer.chat_template:
            self.chat = ChatTemplate(hf_tokenizer, template.chat_template_kwargs)
        elif template.chat is True or template.system is not None:
            raise ConfigError(
                f"tokenizer of {self.name!r} has no chat template; set chat to false "
                "and give a raw template with '{prompt}'"
            )
        self.prompt_ids = functools.lru_cache(maxsize=1024)(self._prompt_ids)
        self.place = functools.lru_cache(maxsize=1024)(self._place)
        self.opening = functools.lru_cache(maxsize=1024)(self._find_opening)
        self._lead = self._start_tokens()
        self.end_id: int | None = self._end_of_turn()
        """The end-of-turn token that follows an answer in this model's format."""
        known = {*end_ids, self.end_id, hf_tokenizer.eos_token_id}
        self.end_ids: tuple[int, ...] = tuple(sorted(i for i in known if i is not None))
        self.suppressed = suppressed or Suppressed()

    @functools.cached_property
    def size(self) -> int:
        """One more than the largest token id; a model may have more rows, which are padding."""
        with self.lock:
            return 1 + max((*self.hf_tokenizer.get_vocab().values(), *self.end_ids))

    @functools.cached_property
    def control_texts(self) -> tuple[frozenset[str], frozenset[str]]:
        """Texts of the end tokens, and of the other control tokens."""
        with self.lock:
            ends = frozenset(self.hf_tokenizer.convert_ids_to_tokens(list(self.end_ids)))
            added = self.hf_tokenizer.added_tokens_decoder.values()
            return ends, frozenset(str(token) for token in added if token.special) - ends

    @functools.cached_property
    def vocabulary(self) -> str:
        """Fingerprint of the vocabulary, equal for tokenizers whose ids mean the same tokens."""
        items = sorted(self.hf_tokenizer.get_vocab().items())
        return hashlib.sha256(repr(items).encode()).hexdigest()

    def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the tokens of the rendered prompt, start token included.

        Raises:
            PromptError: The prompt has no tokens and the model no start token, or the chat
                template refuses the prompt.
        """
        if self.chat is not None:
            with self.lock:
                ids = self.chat.encode(self._turns(prompt), prompt.tools)
        else:
            ids = self.ids_with_response(prompt, "")
        if not ids:
            raise PromptError(
                f"the prompt is empty, and the model {self.name!r} has no start token to begin "
                "from; give at least one word, or a template with text around '{prompt}'"
            )
        return tuple(ids)

    def thoughts(self, prompt: Prompt) -> ThoughtFormat | None:
        """Return how the model writes thoughts before an answer; None if it has none."""
        if self.chat is None or (form := self.chat.thoughts) is None:
            return None
        with self.lock:
            text = self.chat.render(self._turns(prompt), prompt.tools)
        return replace(form, begun=text.rstrip().endswith(form.begin))

    def check_opens(self, prompt: Prompt) -> None:
        """Raise PromptError if the prompt ends where no answer can begin."""
        if self.chat is not None:
            with self.lock:
                self.chat.check_opens(self._turns(prompt), prompt.tools)

    def check_fits(self, prompt: Prompt, more: int, limit: int | None, role: str) -> None:
        """Check that the prompt and ``more`` tokens fit into ``limit`` positions.

        Args:
            prompt: The prompt.
            more: Number of tokens to come.
            limit: Positions of the model; None for no limit.
            role: The model's role, for messages.

        Raises:
            PromptError: They do not fit, or the prompt ends where no answer can begin.
        """
        self.check_opens(prompt)
        count = len(self.prompt_ids(prompt))
        if limit is not None and count + more > limit:
            raise PromptError(
                f"the prompt has {count} tokens, and with {more} more for the answer that exceeds "
                f"the {limit} positions of the {role} {self.name!r}; shorten the prompt"
                + ("" if count >= limit else f" or set max_tokens to at most {limit - count}")
            )

    def ids_with_response(self, prompt: Prompt, response: str) -> tuple[int, ...]:
        """Return the tokens of the rendered prompt and the response, tokenised as one text.

        Control tokens that the response spells are plain text: no model has ended its turn there.
        """
        lead, text = self.opening(prompt)
        [ids] = self._encode_each({text + self._controls.marked(response)}).values()
        return (*lead, *ids)

    def _find_opening(self, prompt: Prompt) -> tuple[tuple[int, ...], str]:
        """Return the tokens, and after them the text, that responses to a prompt continue."""
        if self.chat is None:
            text = self.template.template.replace("{prompt}", prompt.plain_text)
            lead = [] if self._begins(text) else self._lead
            if not lead and not text and self.hf_tokenizer.bos_token_id is not None:
                lead = [self.hf_tokenizer.bos_token_id]
            return tuple(lead), text
        ids = self.prompt_ids(prompt)
        text = self.chat.render(self._turns(prompt), prompt.tools)
        # Control tokens in the prompt's text were encoded as plain text: keep those tokens.
        return ((), text) if tuple(self.encode(text)) == ids else (ids, "")

    @functools.cached_property
    def _boundaries(self) -> Boundaries | None:
        with self.lock:
            return find_boundaries(self.hf_tokenizer)

    def _place(self, prompt: Prompt) -> Place:
        """Return the last place in a prompt that no response moves; the first if none is known."""
        lead, text = self.opening(prompt)
        at = self._boundaries.last(text) if self._boundaries is not None else 0
        after = len(self.encode(text[at:])) if at else 0
        return Place(at, len(self.prompt_ids(prompt)) - after if at else len(lead))

    def ids_after(
        self, asked: Sequence[tuple[Hypothesis, Place]]
    ) -> list[tuple[tuple[int, ...], Place]]:
        """Tokenise prompts with responses as ``ids_with_response`` does, from known places on.

        Args:
            asked: Hypotheses, each with the place of its prompt or of one of its ancestors.

        Returns:
            For each, the tokens after the place, and the last place of its own text.
        """
        cuts: list[tuple[int, str, str]] = []
        for hypothesis, place in asked:
            _, whole = self.opening(hypothesis.prompt)
            opening = whole[place.at :]
            said = hypothesis.text_from(max(place.at - len(whole), 0))
            at = self._boundaries.last(opening + said) if self._boundaries is not None else 0
            of_said = max(at - len(opening), 0)
            head = opening[:at] + self._controls.marked(said[:of_said])
            cuts.append((at, head, opening[at:] + self._controls.marked(said[of_said:])))
        ids = self._encode_each({part for _, *cut in cuts for part in cut})
        return [
            (ids[head] + ids[tail], Place(place.at + at, place.tokens + len(ids[head])))
            for (_, place), (at, head, tail) in zip(asked, cuts, strict=True)
        ]

    def rendered(self, prompt: Prompt) -> str:
        """Render the prompt as text for a server, which tokenises it and adds the start tokens.

        Raises:
            PromptError: The chat template refuses the prompt, or the server could not tell control
                tokens in the messages from those of the template.
        """
        if self.chat is None:
            text = self.template.template.replace("{prompt}", prompt.plain_text)
            return text.removeprefix(self._begins(text))
        text = self.chat.render(self._turns(prompt), prompt.tools)
        if tuple(self.encode(text)) != self.prompt_ids(prompt):
            raise PromptError(
                f"the prompt has control tokens of {self.name!r} in its text, which a server that "
                "reads only text would obey; take them out, or use a server that accepts token ids"
            )
        return text.removeprefix(self.hf_tokenizer.decode(self._lead))

    def _begins(self, text: str) -> str:
        """Return the start tokens, as a text that is rendered already spells them; else ""."""
        spelled = "".join(self.hf_tokenizer.convert_ids_to_tokens(self._lead))
        return spelled if self._lead and text.startswith(spelled) else ""

    def decode_after(
        self, context: Sequence[int], pending: Sequence[int], ids: Sequence[int]
    ) -> tuple[str, tuple[int, ...]]:
        """Decode ``pending`` + ``ids`` after ``context``; hold back an unfinished character.

        Args:
            context: Tokens before them, whose text was returned already.
            pending: Tokens that were held back the last time.
            ids: New tokens.

        Returns:
            The new text, and the tokens to hold back, at most three.
        """
        held = [*pending, *ids]
        context, known = self._begin(list(context))
        count = len(held)
        text = self.decode(context + held)
        # Bytes before the last three tokens can no longer become a character: do not hold them.
        while text.endswith(_REPLACEMENT) and count > len(held) - _LONGEST_PENDING and count > 0:
            count -= 1
            text = self.decode(context + held[:count])
        return text[len(known) :], tuple(held[count:])

    def _begin(self, context: list[int]) -> tuple[list[int], str]:
        """Cut a context so that it begins with a whole character; return it with its text.

        If it began inside one, a decoder might replace all bytes up to the next plain token.
        """
        for size in range(_CONTEXT, _CONTEXT + _LONGEST_PENDING + 1):
            known = self.decode(context[-size:])
            if _REPLACEMENT not in known:
                return context[-size:], known
        return context[-_CONTEXT:], self.decode(context[-_CONTEXT:])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some tokens: of control tokens only those that mark thoughts."""
        untold = frozenset[int]() if self.chat is None else self.chat.untold
        told = [i for i in ids if i not in untold]
        with self.lock:
            return self.hf_tokenizer.decode(
                told, skip_special_tokens=not untold, clean_up_tokenization_spaces=False
            )

    def context(self, hypothesis: Hypothesis) -> list[int]:
        """Return the last tokens of prompt and hypothesis, without the pending ones."""
        wanted = REACH + len(hypothesis.pending)
        ids: list[int] = []
        for node in hypothesis.ancestors():
            ids = [*(node.token_ids or ()), *ids]
            if len(ids) >= wanted:
                break
        else:
            ids = [*self.prompt_ids(hypothesis.prompt)[-wanted:], *ids]
        return ids[: len(ids) - len(hypothesis.pending)]

    def encode(self, text: str) -> list[int]:
        with self.lock:
            return self.hf_tokenizer(text, add_special_tokens=False)["input_ids"]

    def _encode_each(self, texts: Collection[str]) -> dict[str, tuple[int, ...]]:
        """Return the tokens of each text, without start tokens; see ``ControlTokens``."""
        marked = {text for text in texts if ControlTokens.mark in text}
        found: dict[str, tuple[int, ...]] = {}
        how = {"add_special_tokens": False, "verbose": False}  # too long is for us to refuse
        sanitized = {**how, "sanitize_control_tokens": True}
        for own, options in ((set(texts) - marked, how), (marked, sanitized)):
            if ordered := sorted(own):
                with self.lock:
                    ids = self.hf_tokenizer(ordered, **options)["input_ids"]
                found |= {text: tuple(one) for text, one in zip(ordered, ids, strict=True)}
        return found

    @functools.cached_property
    def _controls(self) -> ControlTokens:
        return ControlTokens([*self.control_texts[0], *self.control_texts[1]])

    def _start_tokens(self) -> list[int]:
        """Return the tokens that the tokenizer puts before a raw text."""
        bare = self.encode("a")
        full = self.hf_tokenizer("a")["input_ids"]
        for at in range(len(full) - len(bare) + 1):
            if full[at : at + len(bare)] == bare:
                return full[:at]
        return []

    def _turns(self, prompt: Prompt) -> list[Message]:
        return turns_of(prompt, self.template.template, self.template.system)

    def _end_of_turn(self) -> int | None:
        """Return the token that the chat template puts after an answer, or the end token."""
        if self.chat is not None:
            after = self.encode(self.chat.after_answer().lstrip())
            if after and after[0] in self.hf_tokenizer.added_tokens_decoder:
                return after[0]
        return self.hf_tokenizer.eos_token_id


def warn_of_raw_prompts(tokenizer: Tokenizer, given: Collection[str]) -> None:
    """Warn of a chat template that is not used, unless someone chose that.

    Args:
        tokenizer: The tokenizer and its prompt template.
        given: The options that were given; ``chat`` or ``template`` among them is a choice.
    """
    unused = tokenizer.chat is None and bool(tokenizer.hf_tokenizer.chat_template)
    if unused and not {"chat", "template"} & set(given):
        warnings.warn(
            f"the tokenizer of {tokenizer.name!r} has a chat template, but prompts are read as "
            "plain text; set chat to true (or 'auto') to use it, or to false to say that this is "
            "meant",
            RawPromptWarning,
            stacklevel=2,
        )
