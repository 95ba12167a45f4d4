"""Models behind HTTP: OpenAI-compatible servers."""
