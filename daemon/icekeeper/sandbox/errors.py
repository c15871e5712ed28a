"""The sandbox's one kind of error. The sandbox stands apart from the daemon, so it doesn't share the daemon's."""

from __future__ import annotations


class SandboxError(Exception):
    """A part of the sandbox could not be started, asked or built; the message says which, and shows its log."""
