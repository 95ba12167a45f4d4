"""Turn prompts into one model's tokens and tokens into text: tokenizer, stop strings, ends."""
