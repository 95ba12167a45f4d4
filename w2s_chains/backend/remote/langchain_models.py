"""``named_chat_model``: make a LangChain chat model from its name in a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from w2s_chains.errors import ConfigError, brief

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


def named_chat_model(name: str, **options: Any) -> BaseChatModel:
    """Call ``langchain.chat_models.init_chat_model`` with a name such as "ollama:llama3.2".

    Only providers in LangChain's own table are imported. The user's environment decides where they
    send requests, and with which key; a config cannot redirect them.

    Raises:
        ConfigError: The package langchain or the provider's package is not installed, or LangChain
            refuses the name.
    """
    try:
        from langchain.chat_models import init_chat_model
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the chat model {name!r} needs the package langchain, and its provider's package; "
            "run: pip install langchain langchain-openai (or another provider)"
        ) from error
    try:
        return cast(Any, init_chat_model)(name, **options)  # one of its overloads has no type
    except Exception as error:  # providers raise exceptions of any type
        raise ConfigError(
            f"LangChain cannot make a chat model of {name!r}, which should be provider:model as in "
            f"'ollama:llama3.2': {brief(error)}"
        ) from error
