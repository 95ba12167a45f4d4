"""Constrained decoding: grammars, JSON schemas and tool calls."""
