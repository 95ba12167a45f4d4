"""What goes with the next release: ``from_pretrained`` with flat options, and ``guide``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from w2s_chains.backend.loading.config import Model
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.errors import ConfigError, did_you_mean

_ROLES = ("proposer", "guide", "tuned", "untuned")
_OPTIONS = sorted(Model.model_fields.keys() - {"type", "model"})


class OldWays:
    """What a guided model could do under other names; each of them warns."""

    if TYPE_CHECKING:
        guides: BaseGuidePair | None

    @classmethod
    def from_pretrained(
        cls,
        proposer: str | os.PathLike[str],
        *,
        tuned: str | os.PathLike[str] | None = None,
        untuned: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Self:
        """Load models by name, with flat options. Deprecated: call the class itself.

        Args:
            proposer: The large model: hub id, local folder, GGUF file, or ``embedded:NAME``.
            tuned: The small tuned model, likewise.
            untuned: The small model that ``tuned`` was tuned from.
            **options: Arguments of this class, and options of ``Model`` behind ``proposer_``,
                ``guide_`` (both guides), ``tuned_`` or ``untuned_``, such as
                ``proposer_chat=True``; ``device`` and ``dtype`` without prefix mean all of them.

        Raises:
            W2SError: As the constructor raises it.
        """
        name = cls.__name__
        warnings.warn(
            f"{name}.from_pretrained goes with the next release; write {name}(proposer=Model(...), "
            "guides=Guides(...))",
            DeprecationWarning,
            stacklevel=2,
        )
        return cls(**constructor_arguments(proposer, tuned, untuned, options))

    @property
    def guide(self) -> BaseGuidePair | None:
        """The old name of ``guides``. Deprecated."""
        warnings.warn("guide is now called guides", DeprecationWarning, stacklevel=2)
        return self.guides


def constructor_arguments(
    proposer: str | os.PathLike[str],
    tuned: str | os.PathLike[str] | None,
    untuned: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Flat arguments such as ``proposer_chat=True`` as the arguments of ``W2SLLM``.

    Raises:
        ConfigError: An option is misspelt, names a model a second time, or is for guides that are
            not given.
    """
    models: dict[str, dict[str, Any]] = {role: {} for role in _ROLES}
    everywhere = {name: options[name] for name in ("device", "dtype") if name in options}
    arguments: dict[str, Any] = {}
    for name, value in options.items():
        role, _, option = name.partition("_")
        if name in everywhere:
            continue
        if role not in models or not option:
            arguments[name] = value
            continue
        if option == "model":
            raise ConfigError(
                f"{name}={value!r} names a model that another argument names already; give "
                "the proposer first, and the guides as tuned=... and untuned=..."
            )
        if option not in _OPTIONS:
            hint = did_you_mean(name, [f"{role}_{field}" for field in _OPTIONS])
            raise ConfigError(f"unknown option {name!r}{hint}")
        if role != "proposer" and tuned is None and untuned is None:
            raise ConfigError(f"option {name!r} is for a guide, but tuned and untuned are None")
        models[role][option] = value
    arguments["proposer"] = {"model": proposer, **everywhere, **models["proposer"]}
    if tuned is not None or untuned is not None:
        if arguments.keys() & {"guide", "guides"}:
            raise ConfigError("guides are given, and so are tuned or untuned; give one of them")
        arguments["guides"] = {
            role: {"model": model, **everywhere, **models["guide"], **models[role]}
            for role, model in (("tuned", tuned), ("untuned", untuned))
            if model is not None
        }
    return arguments
