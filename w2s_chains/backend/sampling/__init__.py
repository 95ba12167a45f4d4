"""The next tokens: distributions, noise, and chunks of tokens for many children at once."""
