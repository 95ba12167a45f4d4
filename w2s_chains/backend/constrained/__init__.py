"""Sampling that keeps to a form: grammars, schemas, tool calls."""
