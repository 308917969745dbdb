"""The page that shows runs side by side: one file of HTML that needs no network."""

from __future__ import annotations

from eckart.page.build import build_page as build_page
from eckart.page.sources import Gathered as Gathered
from eckart.page.sources import gather as gather
