"""LangChain's own standard suites, unmodified, through ``ChatOpenAI`` on our server.

Behind it is a tiny random model: tools and forms are kept by construction, whatever it would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.helpers.serving import serving
from w2s_chains import ChatW2S, Sampling
from w2s_chains.serving.catalog import Served


class TestIntegration(ChatModelIntegrationTests):
    url: str

    @pytest.fixture(autouse=True, scope="class")
    def server(self, request: pytest.FixtureRequest, chat: ChatW2S) -> Iterator[None]:
        sampling = chat.model_copy(update={"strategy": Sampling(), "max_tokens": 300})
        with serving(Served(name="tiny", model=sampling)) as client:
            request.cls.url = str(client.base_url.join("/v1"))
            yield

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "tiny", "base_url": self.url, "api_key": "none", "seed": 0}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 1.0, "max_tokens": 300, "max_retries": 0, "timeout": 60}

    @property
    def supports_json_mode(self) -> bool:
        return True
