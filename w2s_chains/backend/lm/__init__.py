"""A causal language model and what it has read: caches, reading, sampling, steering."""

DEFAULT_TOKEN_BUDGET = 16_384
"""Columns of one batch: rows times the longest row, cached tokens included."""
