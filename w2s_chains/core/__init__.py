"""What every floor shares: hypotheses, prompts, sampling, asks, events, contracts, slots."""
