"""How a model reads the sample prompt: control tokens told apart from text that looks like them."""

from __future__ import annotations

from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.prompts import Message, Prompt
from w2s_chains.doctor.diagnosis import Piece, Rendered
from w2s_chains.errors import W2SError

SAMPLES = {"llm": "The best thing about this film", "chat": "What makes a film worth watching?"}
"""The sample prompt of a config's type."""


def sample_prompt(kind: str, text: str | None) -> Prompt:
    """Return the prompt to show: a raw string, or one turn of a user for a chat model."""
    text = SAMPLES[kind] if text is None else text
    if kind == "chat":
        return Prompt(messages=(Message(role="user", content=text),))
    return Prompt(text=text)


def rendered(tokenizer: Tokenizer, prompt: Prompt) -> Rendered:
    """Render a prompt as a model reads it.

    Raises:
        PromptError: The template refuses it.
    """
    ids = tokenizer.prompt_ids(prompt)
    added = tokenizer.hf_tokenizer.added_tokens_decoder
    pieces: list[Piece] = []
    run: list[int] = []

    def end_run() -> None:
        if run:
            text = tokenizer.hf_tokenizer.decode(run, clean_up_tokenization_spaces=False)
            pieces.append(Piece(text=text))
            run.clear()

    for token in ids:
        if token in added and added[token].special:
            end_run()
            pieces.append(Piece(text=str(added[token].content), control=True))
        else:
            run.append(token)
    end_run()
    plain = tokenizer.template.template == "{prompt}"
    how = (
        "chat template" if tokenizer.chat is not None
        else "plain text" if plain else "template"
    )  # fmt: skip
    return Rendered(how=how, pieces=tuple(pieces), tokens=len(ids))


def rendered_elsewhere(
    template: str, prompt: Prompt, how: str, system: str | None = None
) -> Rendered:
    """Render a prompt for a model whose tokens are not known here."""
    text = template.replace("{prompt}", prompt.plain_text)
    lead = () if system is None else (Piece(text=f"system: {system}\n"),)
    return Rendered(how=how, pieces=(*lead, Piece(text=text)))


def attempt(tokenizer: Tokenizer, prompt: Prompt) -> Rendered | W2SError:
    """Render a prompt, or return why that cannot be."""
    try:
        return rendered(tokenizer, prompt)
    except W2SError as error:
        return error


def lacks_template(tokenizer: Tokenizer, template: PromptTemplate, kind: str | None) -> bool:
    """Whether a chat model reads conversations as lines of text because it has no template."""
    return (
        kind == "chat"
        and template.chat == "auto"
        and tokenizer.chat is None
        and template.template == "{prompt}"
    )
