"""A whole lakehouse on one machine from pip packages, and an offload that writes days of trades into it.

This package stands alone: it imports nothing of the daemon, so that it stays a world for others to be tried in.
"""

from __future__ import annotations

from daemon.sandbox.errors import SandboxError
from daemon.sandbox.offload import Offload
from daemon.sandbox.sandbox import Sandbox
from daemon.sandbox.spec import WorldSpec
from daemon.sandbox.tables import TABLES, TableShape
from daemon.sandbox.world import World, WorldTable

__all__ = ["TABLES", "Offload", "Sandbox", "SandboxError", "TableShape", "World", "WorldSpec", "WorldTable"]
