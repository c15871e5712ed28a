"""The sandbox's error; it does not use the daemon's, of which it imports nothing."""

from __future__ import annotations


class SandboxError(Exception):
    """A server or a world could not be started, queried or built; the message names it, and shows its log."""
