"""Certificates of UTC days of tables, and why a day has none. What audits say for and against them: evidence.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from icekeeper.core.enums import Advised, Proof


class CertifiedBy(StrEnum):
    """What of a day's rows was compared: how many they are, or all of their keys, too."""

    COUNTS = "counts"
    KEYS = "keys"


# The properties of a table that name its certified days: all of them, and those by keys.
DAYS_PROPERTY, KEYS_PROPERTY = "icekeeper.certified-days", "icekeeper.certified-by-keys"


def properties_of(days: Mapping[date, CertifiedBy]) -> dict[str, str | None]:
    """The values of these properties for these days; None: the table shall not have it."""
    by_keys = [day for day, by in days.items() if by is CertifiedBy.KEYS]
    return {DAYS_PROPERTY: _ranges(days) or None, KEYS_PROPERTY: _ranges(by_keys) or None}


def _ranges(days: Iterable[date]) -> str:
    """`2026-02-10..2026-02-14,2026-02-16`, oldest first."""
    ranges: list[tuple[date, date]] = []
    for day in sorted(days):
        if ranges and day - ranges[-1][1] == timedelta(days=1):
            ranges[-1] = ranges[-1][0], day
        else:
            ranges.append((day, day))
    return ",".join(f"{first}" if first == last else f"{first}..{last}" for first, last in ranges)


class Uncertified(Advised):
    """Why a day is not certified."""

    NOT_AUDITED = (
        "not_audited",
        "No audit of this whole UTC day is in the ledger: `icekeeper audit --from DAY --to DAY`.",
    )
    AUDITED_BEFORE = (
        "audited_before",
        "An icekeeper without certificates audited the day: audit it again while ClickHouse still has it.",
    )
    NOT_A_DAY = "not_a_day", "The audited window is not one whole UTC day: audit the day with --from and --to."
    BEHIND_WATERMARK = (
        "behind_watermark",
        "The offload had not come to the day's end yet: audit the day again after its next cycle.",
    )
    WATERMARK_UNKNOWN = (
        "watermark_unknown",
        "The offload has no watermark yet, or it could not be read: the run's log says why; then audit the day again.",
    )
    SOURCE_EMPTY = (
        "source_empty",
        "ClickHouse held no row of the day, which proves nothing: compare tables[].source and its TTL with its rows.",
    )
    NOT_PROVEN = (
        "not_proven",
        "The day's files were not all proven by their footers: set audit.proof to files, or to rows where files are "
        "Avro or encrypted, and audit it again.",
    )
    MISSING_ROWS = (
        "missing_rows",
        "Iceberg lacks rows of the day, also where so few are tolerated: offload them again, then audit the day again.",
    )
    CHANGED_ROWS = (
        "changed_rows",
        "Rows of the day have other values in Iceberg: see the audit's findings, mend them, and audit the day again.",
    )
    KEYS_DIFFER = (
        "keys_differ",
        "The keys of both sides are not equal, or could not all be compared: see the audit's findings and its note.",
    )
    SURPLUS = (
        "surplus",
        "Iceberg holds more rows than a source that merges none, which may hide missing ones: find out why, or set "
        "audit.key, and audit the day again.",
    )
    NO_KEY = (
        "no_key",
        "The source merges rows, so that their number proves nothing: set audit.key, and audit the day again.",
    )
    KEYS_SAMPLED = (
        "keys_sampled",
        "Only a part of the keys was compared: raise audit.sample_above, and audit the day again.",
    )
    COUNTS_ONLY = (
        "counts_only",
        "The day is certified by counts only: set audit.key, and audit it again while ClickHouse still has it.",
    )
    BAD_FILES = (
        "bad_files",
        "Files of the day are not what their manifests say: docs/audit.md says what to do about them.",
    )
    FINDING_OPEN = (
        "finding_open",
        "An earlier audit found, by keys, by the minute or by reading rows, what the newest one can't see: audit the "
        "day with audit.key, or with the proof rows.",
    )
    CLOCK_SKEW = (
        "clock_skew",
        "The clock of the host that audited was wrong, so that the order of its audits is not known: check NTP, and "
        "audit the day again.",
    )
    NOT_CONFIRMED = (
        "not_confirmed",
        "The day's newest audit in the ledger is not that run's, or does not certify the day by itself: see whether "
        "the run is in the ledger (`icekeeper spool`), and what it found.",
    )
    ERROR = "error", "The day could not be counted: the audit's reason says what to do; then audit it again."
    REVOKED = (
        "revoked",
        "A later audit found rows of the day missing or changed, or files bad: mend them, and audit the day again.",
    )


@dataclass(frozen=True, slots=True)
class Certificate:
    """A day's certificate: since when (`certified_at`), and by which audit, the first of the strongest since then.

    `fingerprint` is that of the keys, where these were compared. A revoked one says since when, by which run and why.
    """

    table: str
    day: date
    by: CertifiedBy
    proof: Proof
    certified_at: datetime
    audited_at: datetime
    run_id: UUID
    ch_row_count: int
    iceberg_row_count: int
    fingerprint: str | None = None
    snapshot_id: int | None = None
    watermark: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: UUID | None = None
    revoked_reason: Uncertified | None = None


@dataclass(frozen=True, slots=True)
class CertifiedDay:
    """Whether a day is certified: `uncertified` says why not. `certificate`: its newest, which may be revoked.

    `audited_at` and `audited_by`: its newest audit that could tell anything, and its run; `confirmed`: by what that one
    alone certifies the day.
    """

    table: str
    day: date
    certificate: Certificate | None = None
    uncertified: Uncertified | None = None
    audited_at: datetime | None = None
    audited_by: UUID | None = None
    confirmed: CertifiedBy | None = None

    @property
    def certified(self) -> bool:
        return self.uncertified is None

    @property
    def advice(self) -> str | None:
        return self.uncertified and self.uncertified.advice

    def required(self, by: CertifiedBy, run_id: UUID | None = None) -> CertifiedDay:
        """The same where a certificate by counts won't do.

        With `run_id` the newest audit has to be that run's, and to certify the day so by itself.
        """
        if self.certificate is None or not self.certified:
            return self
        if by is CertifiedBy.KEYS and self.certificate.by is not CertifiedBy.KEYS:
            return replace(self, uncertified=Uncertified.COUNTS_ONLY)
        # Runs are compared, not instants: the clock of the host that audited may have been set since.
        confirmed = self.audited_by == run_id and self.confirmed in (by, CertifiedBy.KEYS)
        return self if run_id is None or confirmed else replace(self, uncertified=Uncertified.NOT_CONFIRMED)


@dataclass(frozen=True, slots=True)
class CertifiedTable:
    """`until`: the end of the newest certified day. `expires`: when the TTL of the source begins to take rows of the
    oldest day that could be certified, and is neither that nor acknowledged. None: there is no such day."""

    until: datetime | None = None
    expires: datetime | None = None

    @property
    def newest_day(self) -> date | None:
        return None if self.until is None else (self.until - timedelta(days=1)).date()
