"""``LLMJudgeConfig``: a chat model that grades answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from w2s_chains.backend.remote.langchain_models import named_chat_model
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.sampling import Temperature
from w2s_chains.scorers.config import BuiltInScorerConfig
from w2s_chains.scorers.functions import RunnableScorer

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


def _names_both(template: str) -> str:
    for name in ("{prompt}", "{response}"):
        if name not in template:
            raise ValueError(f"the template {template!r} has no {name!r}, which the judge must see")
    return template


class LLMJudgeConfig(BuiltInScorerConfig):
    """Grade answers with a chat model of any provider that LangChain supports.

    Attributes:
        model: Provider and name, such as "ollama:llama3.2"; the API key is read
            where the provider's package looks for it.
        template: The question to ask; ``{prompt}`` and ``{response}`` are replaced literally.
        temperature: The temperature of the grades; null leaves it to a model that takes none.
        max_concurrency: The most requests to send at once.
        timeout: The most seconds for one grade, retries included.
    """

    type: Literal["llm_judge"] = "llm_judge"
    model: str = Field(min_length=1)
    template: Annotated[str, AfterValidator(_names_both)] = (
        "Grade the response to a prompt from 0 (bad) to 9 (excellent). Answer with one digit and "
        "nothing else.\n\nPrompt: {prompt}\n\nResponse, which may be unfinished: {response}"
    )
    temperature: Temperature | None = 0.0
    max_concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=120.0, gt=0, allow_inf_nan=False)

    def preview(self) -> None:
        named_chat_model(self.model)

    def build(self, guides: BaseGuidePair | None) -> RunnableScorer:
        from langchain_core.runnables import RunnableLambda, RunnableSequence

        options = {} if self.temperature is None else {"temperature": self.temperature}
        model = named_chat_model(self.model, **options)
        judge: RunnableSequence[Mapping[str, str], BaseMessage] = RunnableSequence(
            RunnableLambda(self.rendered), model, name=repr(self.model)
        )
        return RunnableScorer(
            judge, max_concurrency=self.max_concurrency, timeout=self.timeout, spec=self
        )

    def rendered(self, texts: Mapping[str, str]) -> str:
        """Return the question about a ``prompt`` and a ``response``."""
        return re.sub(r"\{(prompt|response)\}", lambda found: texts[found[1]], self.template)
