"""Keys of rows in memory, for the fakes: fingerprints as the adapters make them, with a hash of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from icekeeper.core.audit.keys import KeyQuery, KeyRows
from icekeeper.core.audit.records import Fingerprint
from icekeeper.core.calendar import Window

# A row's key and its compared value, as texts.
KeyedRow = tuple[str, str]


def fingerprints(rows: Iterable[KeyedRow], query: KeyQuery, bits: int) -> dict[int, Fingerprint]:
    """As the adapters make them, with another hash."""
    found: dict[int, Fingerprint] = {}
    chosen = _chosen(rows, query)
    for key, value in dict.fromkeys(chosen) if query.distinct else chosen:
        bucket = _hash("a", key) % 2**bits
        before = found.get(bucket, Fingerprint(0, (0, 0), (0, 0) if query.key.compare else ()))
        texts = [key, key + value] if query.key.compare else [key]
        hashes = [_hash(salt, text) for text in texts for salt in "ab"]
        sums = tuple((x + y) % 2**64 for x, y in zip((*before.keys, *before.values), hashes, strict=True))
        found[bucket] = Fingerprint(before.rows + 1, sums[:2], sums[2:])
    return found


def key_rows(rows: Iterable[KeyedRow], query: KeyQuery, window: Window) -> dict[bytes, KeyRows]:
    """All rows are at the window's start."""
    found: dict[bytes, KeyRows] = {}
    at = int(window.start.timestamp()) * 1_000_000
    for key, value in _chosen(rows, query):
        before = found.get(key.encode(), KeyRows(0))
        more = _hash("a", key + value) if query.key.compare else 0
        found[key.encode()] = KeyRows(before.rows + 1, (before.values + more) % 2**64, at)
    return found


def _chosen(rows: Iterable[KeyedRow], query: KeyQuery) -> list[KeyedRow]:
    within = query.within
    values = ((key, value if query.key.compare else "") for key, value in rows)
    return [row for row in values if within is None or _hash("a", row[0]) % 2**within.bits in within.numbers]


def _hash(salt: str, text: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{salt}{text}".encode(), digest_size=8).digest())
