"""``Reward``: the base of judges of whole answers, which no search ever sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

from pydantic import AfterValidator, Field, ValidationInfo, create_model

from w2s_chains.backend.classifiers.answer_template import AnswerTemplate
from w2s_chains.core.configs import Plugin, built
from w2s_chains.core.slots import LazyClasses, Slot
from w2s_chains.values import as_items


def _beside(path: Path, info: ValidationInfo) -> Path:
    """Resolve a path relative to the folder of the file that names it."""
    context: Mapping[str, Any] = info.context or {}
    folder = context.get("folder")
    return path.expanduser() if folder is None else Path(folder) / path.expanduser()


FileBeside = Annotated[Path, AfterValidator(_beside)]
"""The type of a config field that holds a path, relative to the config's folder."""


class Reward(Plugin, AnswerTemplate, ABC):
    """A judge of answers; like a strategy it is its own config, a frozen model with a ``type``.

    To add a reward, subclass this class or write a function ``(prompts, answers) -> list[float]``,
    and register either under the entry point group ``w2s_chains.rewards``.

    Attributes:
        name: The reward's column in rows and tables; by default its type.
    """

    name: str = Field(default="", pattern=r"^[\w.+-]*$")

    quick: ClassVar[bool] = False
    """Whether it needs no memory for a model: then answers are judged as they come."""

    @property
    def column(self) -> str:
        """The reward's column in rows and tables."""
        return self.name or str(self.type)

    @property
    def meaning(self) -> str:
        """What a value means, for the legend of tables: its unit, and which way is better."""
        return "a mean over answers; higher is better"

    @property
    def fills(self) -> str:
        """The column of every comparison that this reward may fill; empty if none."""
        return ""

    def texts(self, prompts: Sequence[str], answers: Sequence[str]) -> list[str]:
        """Return the texts to judge."""
        return [
            self.rendered(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def check(self) -> None:
        """Check that the reward can work, before hours of generation.

        Raises:
            ConfigError: Data, a model, a label or a package is missing.
        """

    @abstractmethod
    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return the reward of each answer; higher is better.

        Args:
            prompts: One per answer.
            answers: Whole answers, without the prompt.
        """


RewardFunction = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Takes prompts and answers, and returns one float per answer."""


VALUES = "{} values for {} answers"
"""How a message counts what a reward returned; see ``as_items``."""


class FunctionReward(Reward):
    """A function as a reward.

    Attributes:
        function: The function.
    """

    type: str
    function: RewardFunction = Field(exclude=True, repr=False)

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        found = self.function(prompts, answers)
        items = as_items(found, len(answers), f"the reward {self.column!r}", VALUES)
        return cast("list[float]", items)  # the comparison checks each of them


def _wrap_function(name: str, found: Any) -> type[Reward] | None:
    """A class for a function that an entry point names."""
    if not callable(found) or isinstance(found, type):
        return None
    kept = Field(default=found, exclude=True, repr=False)
    return create_model(name, __base__=FunctionReward, type=(str, name), function=(Any, kept))


class RewardSlot(Slot[Reward]):
    """Takes a function ``(prompts, answers) -> list[float]`` too; a string is a type."""

    def coerce(self, value: Any) -> Any:
        if callable(value) and not isinstance(value, Reward):
            name = getattr(value, "__name__", type(value).__name__)
            return FunctionReward(type=name.strip("<>"), function=cast("RewardFunction", value))
        return super().coerce(value)


REWARDS = LazyClasses(
    classifier="w2s_chains.rewards.sequence_classifier:SequenceClassifier",
    value_head="w2s_chains.rewards.value_head:ValueHead",
    text_classifier="w2s_chains.rewards.text_classifier:TextClassifier",
    vader="w2s_chains.rewards.text:Vader",
    length="w2s_chains.rewards.text:Length",
    repetition="w2s_chains.rewards.text:Repetition",
    loglikelihood="w2s_chains.rewards.loglikelihood:Loglikelihood",
)
"""The built-in types; a new one is one line here."""

REWARD = RewardSlot(
    kind="reward",
    base=Reward,
    builtins=REWARDS,
    group="w2s_chains.rewards",
    wrap=_wrap_function,
)

AnyReward = Annotated[Reward, REWARD]
"""A config slot for a reward."""

build_reward = partial(built, REWARD)
