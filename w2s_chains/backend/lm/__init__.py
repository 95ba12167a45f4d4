"""Run a causal language model: key-value cache, batches, scoring, sampling, steering, adapters."""
