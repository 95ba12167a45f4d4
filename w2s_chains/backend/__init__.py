"""Models, tokens, caches and batches: the only owner of tensors. Nothing here knows of a search."""

from __future__ import annotations
