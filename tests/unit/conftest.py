"""What unit tests share: how Hypothesis runs, and the log lines of a test as records."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings
from structlog.contextvars import merge_contextvars
from structlog.typing import EventDict

# No deadline: a machine that is busy with something else fails no property.
settings.register_profile("unit", deadline=None, max_examples=50)
settings.load_profile("unit")


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    """The log lines of the test, with what is bound to their context."""
    with structlog.testing.capture_logs(processors=[merge_contextvars]) as lines:
        yield lines
