"""The names of users: of a process's, and of who gives an order. Names that others send are cut and cleaned."""

from __future__ import annotations

import getpass
import os
import pwd

_LONGEST_NAME = 200


def user_name(uid: int) -> str:
    """The user's name, or the number of one that has none (a container's)."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def operator_name() -> str:
    """The user who gives this command: behind sudo, the one who called it."""
    try:
        return clean_name(os.environ.get("SUDO_USER")) or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def clean_name(text: str | None) -> str | None:
    """A name without what can't be printed, of a length that a page can show; None where nothing is left."""
    return "".join(each for each in text or "" if each.isprintable()).strip()[:_LONGEST_NAME] or None
