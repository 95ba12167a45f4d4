"""A guided model as YAML: its sections, files, JSON schema, and what is wrong with them."""

from typing import Any, cast

import lazy_loader

__getattr__, __dir__, __all__ = cast(Any, lazy_loader).attach_stub(__name__, __file__)
