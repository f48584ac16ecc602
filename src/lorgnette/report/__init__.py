"""What people look at after a run: report.html with its charts and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.report.page import write_report as write_report

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
