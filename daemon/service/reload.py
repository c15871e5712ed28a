"""One way to a configuration, for boot and SIGHUP alike: parse, validate, say how it went. It swaps nothing."""

from __future__ import annotations

from pathlib import Path

import structlog

from daemon.core.errors import ConfigError
from daemon.ports import Clock
from daemon.service.metrics import Metrics
from daemon.settings import Settings, load

log = structlog.get_logger(__name__)


def load_settings(path: Path, metrics: Metrics, clock: Clock) -> Settings:
    """The settings of the file. ConfigError says what is wrong; metric and log have said it already then."""
    try:
        settings = load(path)
    except ConfigError as exc:
        metrics.reload_successful.set(0)
        for problem in exc.problems:
            log.error("config_refused", problem=problem)
        raise
    metrics.reload_successful.set(1)
    metrics.reload_time.set(clock().timestamp())
    log.info("config_loaded", path=str(path), settings_hash=settings.digest(), tables=len(settings.policies()))
    return settings


def changed_blocks(old: Settings, new: Settings) -> list[str]:
    """The top-level keys that differ."""
    return [name for name in type(new).model_fields if getattr(old, name) != getattr(new, name)]
