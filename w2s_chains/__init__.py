"""Weak-to-strong search: steer a large frozen model with a small tuned and a small untuned one.

Every public name is imported on first use, so ``import w2s_chains`` loads neither torch nor
transformers nor langchain. ``__init__.pyi`` lists where each name lives.
"""

from typing import Any, cast

import lazy_loader

__version__ = "0.1.0"

_load, __dir__, __all__ = cast(Any, lazy_loader).attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _load(name)
