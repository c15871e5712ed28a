"""The page that people look at: HTML made here, of what `overview.py` tells. It works without JavaScript."""

from __future__ import annotations
