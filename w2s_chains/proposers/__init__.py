"""Proposers: the large frozen model, in this process, behind a server, or from LangChain."""

from typing import Any, cast

import lazy_loader

__getattr__, __dir__, __all__ = cast(Any, lazy_loader).attach_stub(__name__, __file__)
