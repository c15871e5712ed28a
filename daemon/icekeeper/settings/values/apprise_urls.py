"""Notification URLs in Apprise's syntax: whether it knows the service, and the object that sends. Sends nothing."""

from __future__ import annotations

import logging
import re

import apprise
from apprise.common import OverflowMode, PersistentStoreMode

# Its log lines hold addresses and are dropped. Errors are taken from the result of sending, which contains what this
# logger's own level lets pass; `logs.level` must not change that.
_APPRISE_LOG = logging.getLogger("apprise")
_APPRISE_LOG.propagate = False
_APPRISE_LOG.setLevel(logging.WARNING)

# No files, and one attempt in the calling thread: the notification queue decides on retries.
ASSET = apprise.AppriseAsset(
    app_id="icekeeper",
    app_desc="icekeeper",
    app_url="",
    image_url_mask="",
    image_url_logo="",
    async_mode=False,
    secure_logging=True,
    storage_mode=PersistentStoreMode.MEMORY,
    pgp_autogen=False,
    pem_autogen=False,
    allow_templates=False,
    service_timeout=0,
    language="en",
    timezone="UTC",
)


def scheme_of(url: str) -> str:
    """The scheme of a URL: it names the service, and is no secret. Empty if there is none."""
    match = re.match(r"\s*([a-z][a-z0-9+.-]{0,31})://", url, re.IGNORECASE)
    return match.group(1).lower() if match else ""


def is_understood(url: str) -> bool:
    """Whether Apprise knows the service and the URL has all that it needs."""
    return service_of(url) is not None


def service_of(url: str) -> apprise.NotifyBase | None:
    """The object that sends to this URL; None if Apprise does not understand it."""
    service = apprise.Apprise.instantiate(url, asset=ASSET)
    if service is not None and "overflow=" not in url:
        # A service would refuse a message that is too long at every retry.
        service.overflow_mode = OverflowMode.TRUNCATE
    return service
