"""Models, tokens and caches: the one owner of tensors. Nothing here knows of a search."""
