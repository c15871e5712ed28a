"""Instants as the spool's file keeps them."""

from __future__ import annotations

from datetime import UTC, datetime


def text(instant: datetime) -> str:
    """As the file keeps it: all of one length, so that they sort."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")


def instant(text: str) -> datetime:
    """The way back."""
    return datetime.fromisoformat(text)
