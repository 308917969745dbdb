"""The page that shows runs side by side: one file of HTML that needs no network."""

from __future__ import annotations

from eckart.report.build import build_page, check_installed
from eckart.report.sources import Gathered, gather

__all__ = [
    "Gathered",
    "build_page",
    "check_installed",
    "gather",
]
