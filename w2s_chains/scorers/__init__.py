"""Scorers: the value of partial and whole answers, and the configs that build them."""

from typing import Any, cast

import lazy_loader

__getattr__, __dir__, __all__ = cast(Any, lazy_loader).attach_stub(__name__, __file__)
