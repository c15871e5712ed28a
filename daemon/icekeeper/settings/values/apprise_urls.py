"""Notification URLs as Apprise writes them: whether it knows the service, and the target they name. Sends nothing."""

from __future__ import annotations

import logging
import re

import apprise
from apprise.common import OverflowMode, PersistentStoreMode

# Its lines hold addresses: none goes on. What went wrong is taken from the result instead, which has what its logger
# lets pass: that is not left to `logs.level`.
_APPRISE_LOG = logging.getLogger("apprise")
_APPRISE_LOG.propagate = False
_APPRISE_LOG.setLevel(logging.WARNING)

# Nothing from the disk and nothing to it, one attempt at a time in the thread that calls: when to try again is ours.
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
    """What a URL begins with: it names the service, and is no secret. Empty where there is none."""
    match = re.match(r"\s*([a-z][a-z0-9+.-]{0,31})://", url, re.IGNORECASE)
    return match.group(1).lower() if match else ""


def is_understood(url: str) -> bool:
    """Whether Apprise knows the service and finds all that it needs."""
    return service_of(url) is not None


def service_of(url: str) -> apprise.NotifyBase | None:
    """What sends to this URL, None where Apprise does not understand it."""
    service = apprise.Apprise.instantiate(url, asset=ASSET)
    if service is not None and "overflow=" not in url:
        # A message that is too long for a service would be refused by it, night after night.
        service.overflow_mode = OverflowMode.TRUNCATE
    return service
