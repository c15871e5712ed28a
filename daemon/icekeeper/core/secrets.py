"""What is a secret: by the name of a key, or within a text. One list for everything that shows settings."""

from __future__ import annotations

import re

HIDDEN = "***"

_KEY = re.compile(
    r"password|passwd|secret|token|credential|signature|private|authorization|"
    r"(access|account|shared|api|encryption)[-._]?key|connection-string|account\.key",
    re.IGNORECASE,
)
# Up to the last @: a password that was not percent-encoded may hold one itself.
_URL_PASSWORD = re.compile(r"(//[^/@:\s]*:)\S*(@)")
_ASSIGNED = re.compile(rf"((?:{_KEY.pattern})[\w.-]*\s*[=:]\s*)[^\s&;,]+", re.IGNORECASE)


def is_secret(key: str) -> bool:
    """Whether the value of a setting of this name must not be shown, logged or put on a command line."""
    return _KEY.search(key) is not None


def hide_in_text(text: str) -> str:
    """The text without passwords of URLs (`//user:password@`) and without assigned secrets (`password=...`)."""
    return _ASSIGNED.sub(rf"\g<1>{HIDDEN}", _URL_PASSWORD.sub(rf"\g<1>{HIDDEN}\g<2>", text))
