"""An OpenAI-compatible server for guided models: ``w2s serve``."""
