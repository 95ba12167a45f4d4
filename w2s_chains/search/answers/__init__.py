"""Strategies that choose among whole answers."""
