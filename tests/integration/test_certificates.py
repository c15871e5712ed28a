"""Certificates on a real PostgreSQL: in which order audits count, whenever they are stored; and by real nights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from random import Random
from typing import Any
from uuid import UUID

import pytest

from icekeeper.adapters.ledger.certificates import PostgresCertificates
from icekeeper.adapters.ledger.findings import PostgresFindings
from icekeeper.adapters.ledger.history import PostgresHistory
from icekeeper.adapters.ledger.sql.grants import grants, missing_grants
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.audit.certificates import (
    DAYS_PROPERTY,
    KEYS_PROPERTY,
    CertifiedBy,
    CertifiedDay,
    CertifiedTable,
    Uncertified,
)
from icekeeper.core.audit.evidence import evidence
from icekeeper.core.audit.records import AuditResult, Finding, FindingKind
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import AuditStatus, Proof, Stage, Trigger
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.table_shapes import SHAPES
from tests.conftest import BINANCE, COINBASE, GOLD, SILVER, SLOT, MakeNight
from tests.integration.installations import MAKE_SOLE, sole
from tests.unit.reports import REPORT, TABLE
from tests.unit.test_certificates import (
    BAD_FILE,
    COUNTED,
    DIFFERING,
    EQUAL,
    ONE_PERCENT,
    SAMPLED,
    START,
    THE_16TH,
    THE_17TH,
    UNCOUNTED,
)

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
_numbers = count(1)


@dataclass
class Ledger:
    """A database of its own."""

    box: Sandbox
    name: str
    postgres: Postgres

    @property
    def dsn(self) -> str:
        return self.box.postgres.dsn(self.name)

    @property
    def certificates(self) -> PostgresCertificates:
        return PostgresCertificates(self.postgres, sole(self.postgres))

    def sql(self, text: str, *args: object) -> list[tuple[Any, ...]]:
        return self.box.postgres.execute(self.name, text, *args)

    async def store(self, *audits: AuditResult) -> None:
        for audit in audits:
            report = replace(REPORT, run_id=audit.run_id, trigger=audit.trigger, tasks=(), audits=(audit,))
            await PostgresLedger(self.postgres, sole(self.postgres)).close_run(report)

    async def day(self, day: date = THE_17TH, table: str = TABLE) -> CertifiedDay:
        return await self.certificates.day(table, day)

    def empty(self) -> None:
        self.sql("TRUNCATE maintenance_evidence, maintenance_runs, maintenance_audit_log CASCADE")

    def history(self) -> list[tuple[Any, ...]]:
        """All certificates: by what, since which hour, until which, revoked by which run and why."""
        return self.sql(
            "SELECT certified_by, extract(hour FROM certified_at AT TIME ZONE 'UTC')::int, "
            "extract(hour FROM revoked_at AT TIME ZONE 'UTC')::int, revoked_by, revoked_reason "
            "FROM maintenance_certificates ORDER BY certified_at"
        )


@pytest.fixture
async def ledger(box: Sandbox) -> AsyncIterator[Ledger]:
    name = f"certificates{next(_numbers)}"
    box.postgres.create_database(name)
    ledger = Ledger(box, name, Postgres(box.postgres.dsn(name), box.postgres.password))
    await migrate(ledger.dsn, box.postgres.password)
    ledger.sql(MAKE_SOLE)
    yield ledger
    await ledger.postgres.close()


def audit(hour: int, trigger: Trigger = Trigger.MANUAL, **changes: Any) -> AuditResult:
    """An audit of the 17th at an hour of the 18th, by a run of that number."""
    return replace(COUNTED, run_id=UUID(int=hour), trigger=trigger, run_timestamp=START + DAY + hour * HOUR, **changes)


BY_KEYS: dict[str, Any] = {"key_comparison": EQUAL}
KEYS_CHANGED: dict[str, Any] = {"key_comparison": replace(DIFFERING, changed=3), "status": AuditStatus.WARNING}
FEW_MISSING: dict[str, Any] = {
    "findings": (Finding(FindingKind.MISSING, START, START + HOUR, 3),), "iceberg_row_count": 997, "delta": -3,
}  # fmt: skip
BAD_FILES: dict[str, Any] = {**UNCOUNTED, "reason": Reason.FILE_CORRUPT, "bad_file_rows": 5}
BY_PRICE = replace(EQUAL, compare=("price",))
PRICE_CHANGED: dict[str, Any] = {
    "key_comparison": replace(BY_PRICE, equal=False, changed=3), "status": AuditStatus.WARNING,
}  # fmt: skip
MERGED_SAMPLE: dict[str, Any] = {"key_comparison": SAMPLED, "ch_merges": True}
HIDDEN: dict[str, Any] = {**FEW_MISSING, "iceberg_row_count": 1003, "delta": 3}
C, K = "counts", "keys"


@pytest.mark.parametrize(
    ("audits", "certificates"),
    [
        ([{}], [(C, 1, None)]),
        ([{}, {}], [(C, 1, None)]),
        ([{}, BY_KEYS], [(K, 1, None)]),
        ([BY_KEYS, {}], [(K, 1, None)]),
        ([BY_KEYS, MERGED_SAMPLE], [(K, 1, None)]),
        ([ONE_PERCENT], []),
        ([ONE_PERCENT, {}], [(C, 2, None)]),
        # What comes after a certificate, and revokes it or does not.
        ([{}, ONE_PERCENT], [(C, 1, 2)]),
        ([{}, FEW_MISSING], [(C, 1, 2)]),
        ([{}, BAD_FILES], [(C, 1, 2)]),
        ([{}, {**UNCOUNTED, "reason": Reason.SOURCE_DOWN}], [(C, 1, None)]),
        ([{}, {**ONE_PERCENT, "status": AuditStatus.ERROR, "reason": Reason.SOURCE_EXPIRED}], [(C, 1, None)]),
        ([{}, {"watermark": START}], [(C, 1, None)]),
        # Another window that overlaps the day.
        ([{}, {**FEW_MISSING, "window_start": START - 3 * HOUR, "window_end": START + 2 * HOUR}], [(C, 1, 2)]),
        ([{}, {**ONE_PERCENT, "window_start": START + DAY, "window_end": START + 2 * DAY}], [(C, 1, None)]),
        ([{}, ONE_PERCENT, {}], [(C, 1, 2), (C, 3, None)]),
        ([{}, ONE_PERCENT, ONE_PERCENT, {}], [(C, 1, 2), (C, 4, None)]),
        # What was found by stronger means than a later audit has.
        ([KEYS_CHANGED, {}], []),
        ([KEYS_CHANGED, MERGED_SAMPLE], []),
        ([KEYS_CHANGED, {}, BY_KEYS], [(K, 3, None)]),
        ([KEYS_CHANGED, BY_KEYS, {}], [(K, 2, None)]),
        ([BY_KEYS, KEYS_CHANGED, {}], [(K, 1, 2)]),
        ([BY_KEYS, KEYS_CHANGED, BY_KEYS, ONE_PERCENT, {}], [(K, 1, 2), (K, 3, 4), (C, 5, None)]),
        # Only reading rows shows what reading has met; what footers show, any look at the files.
        ([BAD_FILES, {}], []),
        ([BAD_FILES, {}, BY_KEYS], []),
        ([BAD_FILES, {}, {"proof": Proof.ROWS}], [(C, 3, None)]),
        ([{**BAD_FILES, "bad_files": (BAD_FILE,)}, {}], [(C, 2, None)]),
        ([{**BAD_FILES, "proof": Proof.ROWS}, BY_KEYS], []),
        ([{**BAD_FILES, "proof": Proof.ROWS}, {}, {"proof": Proof.ROWS}, {}], [(C, 3, None)]),
        # Equal totals say nothing where rows were missing in some minutes and surplus in others.
        ([HIDDEN, {}], []),
        ([HIDDEN, BY_KEYS], [(K, 2, None)]),
        # By fewer columns, or distinct keys only, nothing is refuted that more have shown; nor by fewer rows.
        ([PRICE_CHANGED, BY_KEYS], []),
        ([PRICE_CHANGED, {"key_comparison": replace(BY_PRICE, distinct=True), "ch_merges": True}], []),
        ([PRICE_CHANGED, {"key_comparison": BY_PRICE}], [(K, 2, None)]),
        ([ONE_PERCENT, {"ch_row_count": 990, "iceberg_row_count": 990}], []),
        ([ONE_PERCENT, {"ch_row_count": 990, "iceberg_row_count": 990}, {}], [(C, 3, None)]),
    ],
)
async def test_whichever_order_audits_are_stored_in_the_same_certificates_follow(
    ledger: Ledger, audits: Sequence[dict[str, Any]], certificates: Sequence[tuple[str, int, int | None]]
) -> None:
    made = [audit(hour, **changes) for hour, changes in enumerate(audits, start=1)]
    for order in (made, made[::-1], Random(len(made)).sample(made, len(made))):
        ledger.empty()
        await ledger.store(*order)
        assert [row[:3] for row in ledger.history()] == certificates, order
        await ledger.store(*order)  # the spool ships a record again whose answer was lost
        assert [row[:3] for row in ledger.history()] == certificates
    live = [by for by, _, revoked in certificates if revoked is None]
    day = await ledger.day()
    assert [day.certificate and day.certificate.by for _ in live if day.certified] == live


LOST: dict[str, Any] = {**FEW_MISSING, "status": AuditStatus.MISSING_DATA}


@pytest.mark.parametrize(
    ("audits", "certificates", "is_open"),
    [
        # Of each: the hour in which it began, the hour in which it ended.
        ([(1, 2, LOST), (3, 4, {})], [(C, 4, None)], False),
        ([(1, 2, {}), (3, 4, LOST)], [(C, 2, 4)], True),
        # A night's audit that counted before the loss, and ends after the one by hand that has found it.
        ([(1, 5, {}), (2, 3, LOST)], [], True),
        ([(1, 3, {}), (2, 5, LOST)], [(C, 3, 5)], True),
        ([(1, 5, LOST), (2, 3, {})], [(C, 3, 5)], True),
        ([(1, 3, LOST), (2, 5, {})], [], True),
        ([(1, 5, BY_KEYS), (2, 3, KEYS_CHANGED)], [], True),
        ([(1, 5, {}), (2, 3, {**BAD_FILES, "bad_files": (BAD_FILE,)})], [], True),
        ([(1, 5, {**LOST, "proof": Proof.ROWS}), (2, 3, {**BAD_FILES, "bad_files": (BAD_FILE,)})], [], True),
        # One that lacks so few rows that it is ok has found them all the same.
        ([(1, 5, FEW_MISSING), (2, 3, {})], [(C, 3, 5)], False),
        # One that begins after both have ended.
        ([(1, 5, {}), (2, 3, LOST), (4, 6, {})], [(C, 6, None)], False),
        ([(1, 5, {}), (2, 3, LOST), (6, 7, {})], [(C, 7, None)], False),
        ([(1, 5, {}), (2, 3, {**BAD_FILES, "bad_files": (BAD_FILE,)}), (6, 7, {})], [(C, 7, None)], False),
        # An icekeeper of before did not say when it began.
        ([(None, 3, LOST), (None, 5, {})], [(C, 5, None)], False),
        ([(2, 4, LOST), (None, 5, {})], [(C, 5, None)], False),
    ],
)
async def test_an_audit_refutes_no_damage_that_another_one_has_found_while_it_was_under_way(
    ledger: Ledger,
    audits: Sequence[tuple[int | None, int, dict[str, Any]]],
    certificates: Sequence[tuple[str, int, int | None]],
    is_open: bool,
) -> None:
    made = [
        audit(ended, **changes, began_at=None if began is None else START + DAY + began * HOUR)
        for began, ended, changes in audits
    ]
    for order in (made, made[::-1]):
        ledger.empty()
        await ledger.store(*order)
        assert [row[:3] for row in ledger.history()] == certificates
        assert bool(await PostgresFindings(ledger.postgres, sole(ledger.postgres)).all_open([TABLE])) == is_open
        day = await ledger.day()
        live = [by for by, _, revoked in certificates if revoked is None]
        assert (day.certified, day.confirmed is not None) == (bool(live), bool(live)), day


async def test_of_two_audits_of_a_slot_that_overlap_the_one_that_found_damage_stays(ledger: Ledger) -> None:
    """Two hosts without replicas: their audits of the slot are one row."""
    lost = audit(3, Trigger.SCHEDULE, **LOST, began_at=START + DAY + 2 * HOUR)
    proven = audit(5, Trigger.SCHEDULE, began_at=START + DAY + HOUR)
    for order in ((lost, proven), (proven, lost)):
        ledger.empty()
        await ledger.store(*order)
        assert ledger.sql("SELECT status FROM maintenance_audit_log") == [("missing_data",)]
    later = audit(7, Trigger.SCHEDULE, began_at=START + DAY + 6 * HOUR)
    await ledger.store(later)
    assert ledger.sql("SELECT status FROM maintenance_audit_log") == [("ok",)]


async def test_random_audits_leave_one_certificate_at_most_and_the_same_in_any_order(ledger: Ledger) -> None:
    chance = Random(19)
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {},
        BY_KEYS,
        ONE_PERCENT,
        KEYS_CHANGED,
        BAD_FILES,
        HIDDEN,
        {"proof": Proof.ROWS},
        {"watermark": START},
    )
    for _ in range(20):
        made = [audit(hour, **changes) for hour, changes in enumerate(chance.choices(kinds, k=7), start=1)]
        found = []
        for _ in range(3):
            ledger.empty()
            await ledger.store(*chance.sample(made, len(made)))
            found.append(ledger.history())
        assert found[0] == found[1] == found[2], made
        assert sum(revoked is None for _, _, revoked, *_ in found[0]) <= 1
        for by, since, until, *_ in found[0]:
            held = [one for one in made if since <= one.run_timestamp.hour < (until or 24)]
            assert not any(one.revokes for each in held for one in evidence(each)), made
            assert by in {one.certifies for each in held for one in evidence(each)}


async def test_a_certificate_says_what_was_counted_and_by_which_audit(ledger: Ledger) -> None:
    await ledger.store(audit(1), audit(2, **BY_KEYS, snapshot_id=7, proof=Proof.ROWS))
    found = (await ledger.day()).certificate
    assert found is not None
    assert (found.by, found.proof, found.run_id) == (CertifiedBy.KEYS, Proof.ROWS, UUID(int=2))
    assert (found.certified_at, found.audited_at) == (START + DAY + HOUR, START + DAY + 2 * HOUR)
    assert (found.ch_row_count, found.iceberg_row_count, found.snapshot_id) == (1000, 1000, 7)
    assert (found.fingerprint, found.watermark) == ("ab", START + DAY)
    assert await ledger.certificates.of_run(UUID(int=1)) == {(TABLE, Window(START, START + DAY)): CertifiedBy.KEYS}
    await ledger.store(audit(3, **ONE_PERCENT))
    day = await ledger.day()
    assert (day.uncertified, day.audited_by) == (Uncertified.REVOKED, UUID(int=3))
    assert day.certificate is not None
    assert day.certificate.revoked_by == UUID(int=3)
    assert day.certificate.revoked_reason is Uncertified.MISSING_ROWS
    assert await ledger.certificates.of_run(UUID(int=1)) == {}


async def test_an_audit_whose_place_another_of_its_slot_has_taken_still_counts(ledger: Ledger) -> None:
    night = audit(1, Trigger.SCHEDULE)
    await ledger.store(audit(3, Trigger.CATCH_UP, ch_row_count=0, reason=Reason.SOURCE_EMPTY))
    await ledger.store(audit(2, Trigger.RESUME, **ONE_PERCENT), night)
    assert ledger.history() == [(C, 1, 2, str(UUID(int=2)), "missing_rows")]


async def test_an_acknowledgement_neither_certifies_a_day_nor_revokes(ledger: Ledger) -> None:
    findings = PostgresFindings(ledger.postgres, sole(ledger.postgres))
    await ledger.store(audit(1, **ONE_PERCENT, status=AuditStatus.WARNING))
    assert len(await findings.acknowledge(TABLE, THE_17TH, "known", "ann", "host1")) == 1
    assert (await ledger.day()).uncertified is Uncertified.MISSING_ROWS
    await ledger.store(audit(2), audit(3, **KEYS_CHANGED))
    assert (await ledger.day()).uncertified is Uncertified.REVOKED
    await findings.acknowledge(TABLE, THE_17TH, "known", "ann", "host1")
    await ledger.store(audit(4))
    assert (await ledger.day()).uncertified is Uncertified.REVOKED
    await ledger.store(audit(5, **BY_KEYS))
    assert (await ledger.day()).certified


async def test_days_are_listed_with_why_they_are_not_certified(ledger: Ledger) -> None:
    before: dict[str, Any] = {"window_start": START - DAY, "window_end": START, "watermark": START}
    await ledger.store(
        audit(1, **ONE_PERCENT),
        audit(2, **{**UNCOUNTED, "reason": Reason.SOURCE_DOWN}),
        audit(3, **before),
        audit(4, iceberg_table="cold.other", ch_merges=True),
        audit(5, window_start=START + HOUR),
    )
    days = await ledger.certificates.days([TABLE, "cold.other", "cold.none"], THE_16TH, THE_17TH)
    assert [(day.table, day.day, day.uncertified) for day in days] == [
        (TABLE, THE_17TH, Uncertified.MISSING_ROWS),
        (TABLE, THE_16TH, None),
        ("cold.other", THE_17TH, Uncertified.NO_KEY),
    ]
    assert await ledger.certificates.days([TABLE], date(2026, 2, 18), date(2026, 3, 1)) == ()
    assert (await ledger.day(date(2026, 2, 18))).uncertified is Uncertified.NOT_AUDITED


def day_before(days: int) -> dict[str, Any]:
    """An earlier day, at whose end the offload was."""
    return {"window_start": START - days * DAY, "window_end": START - (days - 1) * DAY}


async def test_how_far_a_table_is_certified_and_when_the_ttl_takes_a_day_that_is_not(ledger: Ledger) -> None:
    now = START + DAY + 6 * HOUR
    ttl: dict[str, Any] = {"source_ttl_s": 7 * 86_400}
    assert await ledger.certificates.of_tables([TABLE], now) == {TABLE: CertifiedTable()}
    await ledger.store(audit(1, **ONE_PERCENT))
    assert await ledger.certificates.of_tables([TABLE], now) == {TABLE: CertifiedTable()}  # no TTL is known
    await ledger.store(
        audit(2, **ttl),
        audit(3, **day_before(1), **ttl),
        # Older ones are not certified: 1 % lacks, and one could not be counted.
        audit(4, **day_before(3), **ONE_PERCENT, **ttl),
        audit(5, **day_before(4), **{**UNCOUNTED, "reason": Reason.SOURCE_DOWN}),
        # The TTL has taken all of this one.
        audit(6, **day_before(8), **ONE_PERCENT, **ttl),
        # As these were audited they can't be certified.
        audit(7, **day_before(5), ch_merges=True, **ttl),
        audit(8, **day_before(6), proof=Proof.MANIFESTS, **ttl),
        # There is nothing to lose of this one.
        audit(11, **day_before(2), **{**ttl, "ch_row_count": 0, "reason": Reason.SOURCE_EMPTY}),
    )

    async def expires() -> datetime | None:
        return (await ledger.certificates.of_tables([TABLE], now))[TABLE].expires

    known = (await ledger.certificates.of_tables([TABLE], now))[TABLE]
    assert known == CertifiedTable(START + DAY, START - 4 * DAY + timedelta(days=7))
    await PostgresFindings(ledger.postgres, sole(ledger.postgres)).acknowledge(
        TABLE, (START - 4 * DAY).date(), "known", "ann", "host1"
    )
    assert await expires() == START - 3 * DAY + timedelta(days=7)
    # An audit that finds more than was acknowledged.
    worse = {**ttl, "iceberg_row_count": 900, "delta": -100, "status": AuditStatus.MISSING_DATA}
    await ledger.store(audit(12, **day_before(4), **worse))
    assert await expires() == START - 4 * DAY + timedelta(days=7)
    await PostgresFindings(ledger.postgres, sole(ledger.postgres)).acknowledge(
        TABLE, (START - 4 * DAY).date(), "known", "ann", "host1"
    )
    assert await expires() == START - 3 * DAY + timedelta(days=7)
    await ledger.store(audit(13, **day_before(4), **{**ttl, **ONE_PERCENT}))
    assert await expires() == START - 3 * DAY + timedelta(days=7)
    await ledger.store(audit(9, **day_before(3), **ttl))
    assert await expires() is None
    await ledger.store(audit(10, **{**FEW_MISSING, **ttl}))
    known = (await ledger.certificates.of_tables([TABLE], now))[TABLE]
    assert known == CertifiedTable(START, START + timedelta(days=7))


async def test_a_day_that_a_night_should_have_audited_expires_like_one_that_is_not_certified(ledger: Ledger) -> None:
    ttl: dict[str, Any] = {"source_ttl_s": 7 * 86_400}
    nightly = [(START - days * DAY).date() for days in range(10)]

    async def expires(now: datetime, expected: Sequence[date] = nightly[1:]) -> datetime | None:
        return (await ledger.certificates.of_tables([TABLE], now, expected))[TABLE].expires

    await ledger.store(audit(1, **day_before(3), **ONE_PERCENT, **ttl))
    # No day is certified yet: those that were not audited perhaps could not be.
    assert await expires(START + 2 * HOUR) == START - 3 * DAY + timedelta(days=7)
    await ledger.store(audit(2, **day_before(3), **ttl))
    # Neither the 15th nor the 16th was audited.
    assert await expires(START + 2 * HOUR) == START - 2 * DAY + timedelta(days=7)
    await ledger.store(audit(3, **day_before(2), **ttl))
    assert await expires(START + 2 * HOUR) == START - DAY + timedelta(days=7)
    # An audit of a part of it is none of the day.
    await ledger.store(audit(4, window_start=START - DAY, window_end=START - 20 * HOUR, **ttl))
    assert await expires(START + 2 * HOUR) == START - DAY + timedelta(days=7)
    # The schedule has no night that would have audited it.
    assert await expires(START + 2 * HOUR, nightly[2:]) is None
    await ledger.store(audit(5, **day_before(1), **ttl))
    assert await expires(START + 2 * HOUR) is None
    assert await expires(START + DAY + 6 * HOUR, nightly) == START + timedelta(days=7)
    # What the TTL has taken is not to be had any more.
    assert await expires(START + 8 * DAY + HOUR, nightly) is None


async def test_a_role_with_the_printed_grants_certifies_and_takes_nothing_back(ledger: Ledger) -> None:
    role = f"keeper_{ledger.name}"
    ledger.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    for grant in await grants(ledger.postgres, role):
        ledger.sql(grant)
    own = Ledger(ledger.box, ledger.name, Postgres(ledger.dsn.replace("icekeeper@", f"{role}@"), "p"))
    await own.store(audit(1), audit(1))
    assert (await own.day()).certified
    assert (await own.certificates.of_tables([TABLE], START))[TABLE].until == START + DAY
    for change in ("DELETE FROM maintenance_evidence", "UPDATE maintenance_evidence SET certifies = 'keys'"):
        with pytest.raises(PermanentError, match="permission denied"):
            async with own.postgres.connection() as connection:
                await connection.execute(change)
    await own.postgres.close()


async def test_a_role_that_kept_the_ledger_of_before_keeps_certificates_after_the_migration(ledger: Ledger) -> None:
    role = f"keeper_{ledger.name}"
    ledger.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    for grant in await grants(ledger.postgres, role):
        ledger.sql(grant)
    ledger.sql(
        "DROP VIEW maintenance_certificates; DROP TABLE maintenance_evidence; DROP TABLE maintenance_repairs; "
        "UPDATE icekeeper_schema_version SET version_num = '0007_findings'"
    )
    assert await migrate(ledger.dsn, ledger.box.postgres.password) == [
        "0008_certificates",
        "0009_repairs",
        "0010_windows",
        "0011_installations",
        "0012_overlaps",
        "0013_holds",
    ]
    own = Ledger(ledger.box, ledger.name, Postgres(ledger.dsn.replace("icekeeper@", f"{role}@"), "p"))
    await own.store(audit(1))
    assert (await own.day()).certified
    lacking = await missing_grants(own.postgres)
    assert not [grant for grant in lacking if "maintenance_evidence" in grant or "maintenance_certificates" in grant]
    await own.postgres.close()


async def test_the_calendar_has_a_day_as_its_newest_audit_that_could_count_has_it(ledger: Ledger) -> None:
    down = {**UNCOUNTED, "reason": Reason.SOURCE_DOWN}
    expired = {**UNCOUNTED, "reason": Reason.SOURCE_EXPIRED, "ch_row_count": 3}
    days: dict[int, list[dict[str, Any]]] = {
        11: [{}, {"reason": Reason.SOURCE_EMPTY, "ch_row_count": 0}],
        12: [{}, down], 13: [down], 14: [expired], 15: [BY_KEYS, BAD_FILES], 16: [{}, ONE_PERCENT], 17: [BY_KEYS],
    }  # fmt: skip
    hour = 0
    for day, audits in days.items():
        back = (17 - day) * DAY
        for changes in audits:
            hour += 1
            window = {"window_start": START - back, "window_end": START - back + DAY}
            await ledger.store(audit(hour, **{**changes, **window}))
    hours: dict[str, Any] = {"window_start": START, "window_end": START + 12 * HOUR, "audit_window_hours": 12}
    await ledger.store(audit(hour + 1, **ONE_PERCENT, **hours))

    rows = await PostgresHistory(ledger.postgres, sole(ledger.postgres)).days([TABLE, "cold.other"], START - 10 * DAY)

    assert [tuple(row[name] for name in ("status", "reason", "certified_by", "revoked_reason")) for row in rows] == [
        ("ok", "source_empty", C, None),
        ("ok", None, C, None),
        ("error", "source_down", None, None),
        ("error", "source_expired", None, None),
        ("error", "file_corrupt", None, "bad_files"),
        ("ok", None, None, "missing_rows"),
        ("ok", None, None, "missing_rows"),  # twelve hours of it lack rows since
    ]
    assert [row["day"].day for row in rows] == list(days)
    assert {row["table"] for row in rows} == {TABLE}
    assert [
        row["day"].day
        for row in await PostgresHistory(ledger.postgres, sole(ledger.postgres)).days([TABLE], START - HOUR)
    ] == [16, 17]


async def test_five_years_of_ten_tables_are_looked_up_in_a_moment(ledger: Ledger) -> None:
    ledger.sql(
        """
        INSERT INTO maintenance_audit_log (run_id, slot, trigger, run_timestamp, iceberg_table, ch_source, layer,
          audit_window_hours, window_start, window_end, ch_row_count, iceberg_row_count, delta, status, notes, ch_query,
          iceberg_query, proof, ch_merges, source_ttl_s, watermark_read, missing_hours)
        SELECT gen_random_uuid(), day + interval '26 hours', 'manual', day + interval '26 hours', 'cold.t' || n, 't',
          'gold', 24, day, day + interval '1 day', 100, 100, 0, 'ok', 'equal', repeat('c', 300), repeat('i', 300),
          'files', false, 63072000, true, '[]'
        FROM generate_series(timestamptz '2021-02-17 00:00Z', '2026-02-16 00:00Z', '1 day') AS day,
          generate_series(0, 9) AS n;
        INSERT INTO maintenance_evidence (iceberg_table, day, run_id, audited_at, certifies, proof,
          ch_row_count, iceberg_row_count)
        SELECT iceberg_table, window_start::date, run_id, run_timestamp, 'counts', 'files', 100, 100
        FROM maintenance_audit_log
        WHERE extract(doy FROM window_start)::int % 30 <> right(iceberg_table, 1)::int;
        ANALYZE
        """
    )
    tables = [f"cold.t{n}" for n in range(10)]
    began = datetime.now(UTC)
    known = await ledger.certificates.of_tables(tables, START)
    took = datetime.now(UTC) - began
    assert {one.until for one in known.values()} == {START}
    assert all(one.expires for one in known.values())
    assert took < timedelta(seconds=2), took
    ((run_id,),) = ledger.sql("SELECT run_id FROM maintenance_audit_log ORDER BY window_start DESC LIMIT 1")
    began = datetime.now(UTC)
    assert len(await ledger.certificates.of_run(UUID(str(run_id)))) == 1
    assert datetime.now(UTC) - began < timedelta(seconds=0.5)
    began = datetime.now(UTC)
    assert len(await ledger.certificates.days(tables, date(2025, 12, 20), THE_17TH)) == 590
    assert datetime.now(UTC) - began < timedelta(seconds=1)
    began = datetime.now(UTC)
    assert len(await PostgresHistory(ledger.postgres, sole(ledger.postgres)).days(tables, START - 59 * DAY)) == 590
    assert datetime.now(UTC) - began < timedelta(seconds=1)


# --- by real nights


def without_newest_row(table: str) -> str:
    """The statement that deletes the newest row of the 17th."""
    time = SHAPES[table].timestamp
    day = f"{time} >= timestamp'2026-02-17 00:00:00 UTC' AND {time} < timestamp'2026-02-18 00:00:00 UTC'"
    return f"DELETE FROM {{c}}.{table} WHERE {time} = (SELECT max({time}) FROM {{c}}.{table} WHERE {day})"


async def test_a_night_certifies_what_it_has_proven_and_the_next_audit_revokes_what_was_damaged(
    make_night: MakeNight,
) -> None:
    def by_keys(document: dict[str, Any]) -> None:
        document["audit"] = {"certificate_property": True}
        (silver,) = (table for table in document["tables"] if table["name"] == SILVER)
        silver["audit"] = {"key": ["message_id"], "compare": ["price"]}

    async def noted(table: str) -> dict[str, str]:
        """The table's properties that name certified days."""
        rows = await night.sql(f"SHOW TBLPROPERTIES {{c}}.{table}")
        return {row.key: row.value for row in rows if row.key.startswith("icekeeper.")}

    night = await make_night(COINBASE, BINANCE, SILVER, GOLD, change=by_keys, commits_per_day=24, files_per_commit=1)
    await night.sql(without_newest_row(BINANCE))
    certificates = night.services.certificates

    report = await night.run(Stage.COMPACT, Stage.AUDIT)

    assert {audit.iceberg_table: audit.status for audit in report.audits}[BINANCE] is AuditStatus.OK
    days = {table: await certificates.day(table, THE_17TH) for table in (COINBASE, BINANCE, SILVER, GOLD)}
    assert {table: (day.certificate and day.certificate.by, day.uncertified) for table, day in days.items()} == {
        COINBASE: (CertifiedBy.COUNTS, None),
        BINANCE: (None, Uncertified.MISSING_ROWS),
        SILVER: (CertifiedBy.KEYS, None),
        GOLD: (None, Uncertified.NO_KEY),
    }
    silver = days[SILVER].certificate
    assert silver is not None
    assert silver.fingerprint is not None
    assert len(silver.fingerprint) == 4 * 16
    known = await certificates.of_tables((COINBASE, BINANCE, GOLD), SLOT)
    # Seven days after its ingestion ClickHouse drops a row of bronze.
    assert known[COINBASE] == CertifiedTable(until=START + DAY)
    assert known[BINANCE] == CertifiedTable(expires=START + timedelta(days=7))
    assert known[GOLD] == CertifiedTable()

    by_keys_too = {DAYS_PROPERTY: "2026-02-17", KEYS_PROPERTY: "2026-02-17"}
    assert [await noted(table) for table in (COINBASE, BINANCE, SILVER, GOLD)] == [
        {DAYS_PROPERTY: "2026-02-17"}, {}, by_keys_too, {},
    ]  # fmt: skip
    versions = f"SELECT file FROM {{c}}.{SILVER}.metadata_log_entries"
    files = await night.sql(versions)
    await night.run(Stage.AUDIT, tables=(SILVER,))
    assert await night.sql(versions) == files, "no commit where nothing has changed"

    for table in (COINBASE, SILVER):
        await night.sql(without_newest_row(table))
    await night.execute(Stage.AUDIT, tables=(SILVER,), record=False)
    assert await noted(SILVER) == by_keys_too, "a dry run changes no table"
    await night.run(Stage.AUDIT, tables=(COINBASE,), window=window_of(SLOT, 12))
    again = await night.run(Stage.AUDIT, tables=(SILVER,))

    assert (await certificates.day(COINBASE, THE_17TH)).uncertified is Uncertified.REVOKED
    revoked = (await certificates.day(SILVER, THE_17TH)).certificate
    assert revoked is not None
    assert (revoked.revoked_by, revoked.revoked_reason) == (again.run_id, Uncertified.MISSING_ROWS)
    assert [await noted(table) for table in (COINBASE, SILVER)] == [{}, {}]
