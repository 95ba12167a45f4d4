"""A causal language model and what it has read: caches, reading, sampling, steering."""
