"""Run a causal language model: key-value cache, batches, scoring, sampling, steering, adapters."""

DEFAULT_TOKEN_BUDGET = 16_384
"""Most columns of one batch: rows times the length of the longest row, cached tokens included."""
