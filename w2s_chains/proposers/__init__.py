"""The large frozen model: in this process, behind a server, or any model of LangChain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
