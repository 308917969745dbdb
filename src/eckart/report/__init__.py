"""The page that shows runs side by side: one file of HTML that needs no network."""

from __future__ import annotations

from eckart.report.build import build_page as build_page
from eckart.report.build import check_installed as check_installed
from eckart.report.sources import Gathered as Gathered
from eckart.report.sources import gather as gather
