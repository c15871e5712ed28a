"""The page that people look at: HTML made here, of what `overview.py` tells. It works without JavaScript."""

from __future__ import annotations

from daemon.service.pages.pages import Pages

__all__ = ["Pages"]
