"""What a reward is: it judges whole answers, and no search ever sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo

from w2s_chains.backend.classifiers.answer_template import AnswerTemplate
from w2s_chains.core.plugins import Plugin


def _beside(path: Path, info: ValidationInfo) -> Path:
    """A path in a file is relative to that file's folder."""
    context: Mapping[str, Any] = info.context or {}
    folder = context.get("folder")
    return path.expanduser() if folder is None else Path(folder) / path.expanduser()


FileBeside = Annotated[Path, AfterValidator(_beside)]
"""A path that a config names, relative to the folder of the config."""


class Reward(Plugin, AnswerTemplate, ABC):
    """A judge of answers; like a strategy it is its own config, a frozen model with a ``type``.

    Third parties subclass it, or write a function ``(prompts, answers) -> list[float]``, and
    register either under the entry point group ``w2s_chains.rewards``.

    Attributes:
        name: The column in rows and tables; by default the type.
    """

    name: str = Field(default="", pattern=r"^[\w.+-]*$")

    @property
    def column(self) -> str:
        return self.name or str(self.type)

    @property
    def fills(self) -> str:
        """The column of every comparison that this reward may fill; empty if none."""
        return ""

    def texts(self, prompts: Sequence[str], answers: Sequence[str]) -> list[str]:
        """The texts that are judged."""
        return [
            self.rendered(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def check(self) -> None:
        """Refuse what cannot work, before hours of generation.

        Raises:
            ConfigError: Data, a model, a label or a package is missing.
        """

    @abstractmethod
    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """The reward of each answer; higher is better.

        Args:
            prompts: One per answer.
            answers: Whole answers, without the prompt.
        """


RewardFunction = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Takes prompts and answers, and returns one float per answer."""


class FunctionReward(Reward):
    """A function as a reward.

    Attributes:
        function: What is called.
    """

    type: str
    function: RewardFunction = Field(exclude=True, repr=False)

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return list(self.function(prompts, answers))
