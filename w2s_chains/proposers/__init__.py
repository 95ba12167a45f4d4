"""The large frozen model: in this process, behind a server, or any model of LangChain."""

from typing import Any, cast

import lazy_loader

_lazy = cast(Any, lazy_loader)  # it is only partly typed
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
