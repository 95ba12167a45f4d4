"""Shared types: hypotheses, prompts, sampling, asks, events, part contracts, configs and slots."""
