"""The large frozen model."""

from w2s_chains.proposers.huggingface import HuggingFaceProposer

__all__ = ["HuggingFaceProposer"]
