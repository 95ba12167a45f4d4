"""Models, tokens and caches: the one owner of tensors. Nothing here knows of a search."""

from __future__ import annotations
