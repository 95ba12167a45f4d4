"""LangChain chat models by the names that configs give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from w2s_chains.errors import ConfigError, brief

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


def named_chat_model(name: str, **options: Any) -> BaseChatModel:
    """What ``langchain.chat_models.init_chat_model`` makes of a name such as "ollama:llama3.2".

    Only providers in LangChain's own table are imported, and where they send requests and with
    which key is up to the environment of the user: no config can redirect them.

    Raises:
        ConfigError: The package langchain or the provider's is missing, or it refuses the name.
    """
    try:
        from langchain.chat_models import init_chat_model
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the chat model {name!r} needs the package langchain, and the one of its provider; "
            "run: pip install langchain langchain-openai (or another provider)"
        ) from error
    try:
        return cast(Any, init_chat_model)(name, **options)  # one of its overloads has no type
    except Exception as error:  # each provider raises what it likes
        raise ConfigError(
            f"LangChain cannot make a chat model of {name!r}, which should be provider:model as in "
            f"'ollama:llama3.2': {brief(error)}"
        ) from error
