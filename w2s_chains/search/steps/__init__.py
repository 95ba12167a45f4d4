"""Strategies that choose at every step of an answer."""
