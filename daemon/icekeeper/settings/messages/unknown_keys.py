"""The message about an unknown key, with a suggestion of the key that was perhaps meant."""

from __future__ import annotations

import difflib

from icekeeper.settings.loading.document import KeyPath, dotted
from icekeeper.settings.messages.known_keys import homes_of, keys_at, maps_at


def unknown(at: KeyPath) -> str:
    """The sentence about a key that its block does not have."""
    return f"{dotted(at)} is no key that icekeeper knows; {_hint(str(at[-1]), at[:-1])}"


def _hint(word: str, block: KeyPath) -> str:
    known = keys_at(block)
    close = difflib.get_close_matches(word.lower(), known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    if homes := homes_of(word):
        return f"it is a key of {', '.join(homes)}"
    maps = "".join(f", and any key below {name}" for name in maps_at(block))
    return f"the keys here are {', '.join(sorted(known))}{maps}"
