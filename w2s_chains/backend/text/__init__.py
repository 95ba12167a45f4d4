"""Turn prompts into one model's tokens and tokens into text: templates, tokenizer, stop strings."""
