"""The LangChain components: LLM, chat model, tools, structured output and callbacks."""
