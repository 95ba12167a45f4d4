"""Read, write and build a guided model from YAML: its sections, files and JSON schema."""

from typing import Any, cast

import lazy_loader

__getattr__, __dir__, __all__ = cast(Any, lazy_loader).attach_stub(__name__, __file__)
