"""Answers on a terminal or in a pipe: what ``w2s run`` and ``w2s chat`` share."""
