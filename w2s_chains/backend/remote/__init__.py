"""Models behind HTTP: OpenAI-compatible servers, and LangChain's chat models by name."""
