"""The small models: one guide, and the pair of a tuned and an untuned one."""

from typing import Any, cast

import lazy_loader

_lazy = cast(Any, lazy_loader)  # it is only partly typed
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
