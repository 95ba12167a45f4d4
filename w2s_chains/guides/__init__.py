"""Guides: the small models, local or remote, and the pair of a tuned and an untuned one."""

from typing import Any, cast

import lazy_loader

__getattr__, __dir__, __all__ = cast(Any, lazy_loader).attach_stub(__name__, __file__)
