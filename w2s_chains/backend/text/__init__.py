"""Between text and one model's tokens: templates, chat, tokenizers, stop strings."""
