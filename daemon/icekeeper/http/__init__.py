"""The daemon's HTTP server: metrics, health checks, the API. The page is in pages/. It decides nothing."""

from __future__ import annotations

from icekeeper.http.server import HttpServer

__all__ = ["HttpServer"]
