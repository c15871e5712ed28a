"""The HTTP side of the daemon: metrics, health, the API, the page. It asks; it decides nothing."""

from __future__ import annotations

from icekeeper.http.server import HttpServer

__all__ = ["HttpServer"]
