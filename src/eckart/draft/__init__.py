"""A compressed model as the draft of its own dense model: what is written does not change, and may come sooner."""

from __future__ import annotations

from eckart.draft.search import Candidate, Draft, make_draft

__all__ = ["Candidate", "Draft", "make_draft"]
