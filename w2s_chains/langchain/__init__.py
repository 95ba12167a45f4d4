"""The LangChain face: LLM, chat model, tools, structured output, callbacks."""
