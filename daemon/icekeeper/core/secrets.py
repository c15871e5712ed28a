"""What is a secret: by the name of a key, or within a text. One list for everything that shows settings."""

from __future__ import annotations

import re

HIDDEN = "***"

_KEY = re.compile(
    r"password|passwd|secret|token|credential|signature|private|authorization|"
    r"(access|account|shared|api|encryption)[-._]?key|connection-string|account\.key|cookie|azure\.sas\.",
    re.IGNORECASE,
)
# Up to the last @: a password that was not percent-encoded may hold one itself.
_URL_PASSWORD = re.compile(r"(//[^/@:\s]*:)\S*(@)")
# A name that is a secret's (also `sig`, the signature of an Azure SAS URL) and its value: quoted, also within a quoted
# text; a list; or up to the next separator. Every part is bounded, so that a long text takes no time.
_ASSIGNED = re.compile(
    rf"""
    (?P<name> (?:{_KEY.pattern} | (?:(?<![a-z_.-])|(?<=%3f))sig(?![\w.-])) [\w.-]{{0,64}} )
    (?P<separator> (?:\\{{0,8}}["'])? \s{{0,8}} (?:=>|[=:]|%3d) \s{{0,8}} )
    (?:
      (?P<quote> \\{{0,8}}["'] ) (?: (?! (?<!\\)(?P=quote) ) . )* (?P<end> (?P=quote) )?
      | (?P<list> \[ [^\]\n]* \]? )
      | (?: (?:Bearer|Basic|Digest|Negotiate) \s+ )? (?P<plain> [^\s&;,]+ )
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----).*?(-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
_BEARER = re.compile(r"\b((?:Bearer|Basic)\s+)[\w.~+/-]{16,}=*", re.IGNORECASE)
_JSON_WEB_TOKEN = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")
# Errors whose names hold such a word, as in `ExpiredTokenException: The security token ...`; OAuth's `invalid_token`.
_ERROR_NAME = re.compile(
    r"\b(?:Expired|Invalid|Missing|Malformed|Unsupported|Unknown|No)[A-Z]\w*$"
    r"|\b(?:expired|invalid|missing|unsupported|unknown)_\w*$"
    r"|(?:Exception|Error|Failure|Fault|DoesNotMatch|Mismatch|Required|NotFound|Expired|Unavailable)$"
)
# Settings whose names hold such a word, and whose values are none: a path, a type, a class, a switch, a time.
_HARMLESS_NAME = re.compile(r"(?:[-_.]file|[-_.]?type|provider|providers|[-_.]enabled|[-_.](?:in-)?ms)$", re.IGNORECASE)
# What stands for no value, whatever the name is.
_NO_VALUE = frozenset({"null", "none", "nil", "undefined", "true", "false", "yes", "no", "on", "off"})
# What a sentence goes on with after a colon.
_PROSE = re.compile(
    r"an?|and|are|be|can|cannot|expired|failed|for|from|has|have|header|in|invalid|is|it|missing|must|not|of|or|provide|"
    r"refused|rejected|required|the|they|this|to|try|unable|use|was|were|with|wrong|your?",
    re.IGNORECASE,
)
_NAME_LENGTH = 64


def is_secret(key: str) -> bool:
    """Whether the value of a setting of this name must not be shown, logged or put on a command line."""
    return _KEY.search(key) is not None


def is_secret_setting(key: str) -> bool:
    """The same of a setting whose value is not known; those that only speak of a secret (`token-type`) are none."""
    return is_secret(key) and _HARMLESS_NAME.search(key) is None


def hide_in_text(text: str) -> str:
    """The text without secrets as programs write them: in URLs, assignments, JSON, YAML, HTTP headers, and keys."""
    text = _PRIVATE_KEY.sub(rf"\g<1>{HIDDEN}\g<2>", text)
    text = _URL_PASSWORD.sub(rf"\g<1>{HIDDEN}\g<2>", text)
    text = _ASSIGNED.sub(_hidden, text)
    text = _BEARER.sub(rf"\g<1>{HIDDEN}", text)
    return _JSON_WEB_TOKEN.sub(HIDDEN, text)


def _hidden(match: re.Match[str]) -> str:
    if match["plain"] is not None and _is_harmless(match):
        return match[0]
    if match["list"] is not None and _HARMLESS_NAME.search(match["name"]):
        return match[0]
    value = f"[{HIDDEN}]" if match["list"] else f"{match['quote'] or ''}{HIDDEN}{match['end'] or ''}"
    return f"{match['name']}{match['separator']}{value}"


def _is_harmless(match: re.Match[str]) -> bool:
    """Whether a value without quotes is a word of a sentence, or of a setting that holds no secret."""
    word = match["plain"].strip(".,!?()[]{}")
    if _HARMLESS_NAME.search(match["name"]) or word.lower() in _NO_VALUE:
        return True
    if match["separator"].strip() != ":":
        return False
    before = match.string[max(0, match.start() - _NAME_LENGTH) : match.start()]
    if word.isalpha() and _ERROR_NAME.search(before + match["name"]):
        return True
    return _PROSE.fullmatch(word) is not None
