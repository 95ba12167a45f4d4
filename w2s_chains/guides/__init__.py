"""The small models: one guide, and the pair of a tuned and an untuned one."""

from __future__ import annotations

from w2s_chains.guides.huggingface import HuggingFaceGuide
from w2s_chains.guides.pair import GuidePair
from w2s_chains.guides.remote import RemoteGuide

__all__ = ["GuidePair", "HuggingFaceGuide", "RemoteGuide"]
