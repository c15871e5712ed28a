"""Holds of operators in the ledger; for the time that it is away those in force are kept on disk, too."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.ledger.kept_holds import HoldsNotKept, KeptHolds
from icekeeper.adapters.ledger.rows import known
from icekeeper.adapters.ledger.store import accepted
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError, PermanentError
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.night.ports import Clock

log = structlog.get_logger(__name__)

# A server that does not answer takes seconds to say so, and every task of a night asks.
_ASK_AGAIN = timedelta(minutes=1)
_IN_FORCE = "released_at IS NULL AND (until IS NULL OR until > $2) AND installation_id = $1"
_ALL_IN_FORCE = f"SELECT * FROM maintenance_holds WHERE {_IN_FORCE} ORDER BY iceberg_table, held_at, stage, hold_id"
_THERE = "SELECT hold_id FROM maintenance_holds WHERE hold_id = ANY($1::uuid[])"
_NEWEST = """
    SELECT * FROM maintenance_holds
    WHERE ($2::text[] IS NULL OR iceberg_table = ANY($2::text[])) AND installation_id = $1
    ORDER BY held_at DESC, stage, hold_id LIMIT $3
"""
_HOLD = """
    INSERT INTO maintenance_holds
      (hold_id, installation_id, iceberg_table, stage, held_at, until, note, held_by, held_host)
    SELECT hold_id, $1, $2, stage, $5, $6, $7, $8, $9 FROM unnest($3::uuid[], $4::text[]) AS new (hold_id, stage)
    RETURNING *
"""
_PUT_BACK = """
    INSERT INTO maintenance_holds
      (hold_id, installation_id, iceberg_table, stage, held_at, until, note, held_by, held_host)
    VALUES ($2, $1, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING
"""
_RELEASE = f"""
    UPDATE maintenance_holds
    SET released_at = $2, released_by = $5, released_host = $6
    WHERE {_IN_FORCE} AND iceberg_table = $3 AND stage = ANY($4::text[])
    RETURNING *
"""


class PostgresHolds:
    """Implements ports.Holds on the ledger's database, of one installation.

    Every method raises what `Postgres.connection` and `Installation` do.
    """

    def __init__(self, postgres: Postgres, installation: Installation, state_dir: Path, clock: Clock) -> None:
        self._postgres = postgres
        self._installation = installation
        self._kept = KeptHolds(state_dir)
        self._clock = clock
        # When the ledger could not be asked last, and why.
        self._away: tuple[datetime, IcekeeperError] | None = None
        # The ledger's last answer, which may be newer than what is on disk.
        self._last: tuple[OperatorHold, ...] = ()

    async def of(self, table: str, *, anew: bool = False) -> tuple[OperatorHold, ...]:
        """As the port has it. Changes nothing, on disk neither."""
        return tuple(hold for hold in await self._known(anew=anew) if hold.table == table)

    async def _known(self, *, anew: bool) -> tuple[OperatorHold, ...]:
        now, away = self._clock(), self._away
        if anew or away is None or not timedelta() <= now - away[0] < _ASK_AGAIN:
            try:
                return await self.in_force()
            except IcekeeperError as exc:
                log.warning("holds_read_from_disk", error=str(exc))
                self._away = away = (now, exc)
        kept = await asyncio.to_thread(self._kept.read)
        if kept is None:
            raise away[1]
        # Rather one too many, that was released meanwhile, than one too few.
        return tuple({hold.hold_id: hold for hold in (*kept, *self._last)}.values())

    async def in_force(self) -> tuple[OperatorHold, ...]:
        """All of this installation, table by table; then those on disk that the ledger does not have."""
        found, lost = await self._asked()
        return (*found, *lost)

    async def _asked(self) -> tuple[tuple[OperatorHold, ...], tuple[OperatorHold, ...]]:
        """Those in force by the ledger, and those on disk that it has never had, in force or not.

        No row is ever deleted: a ledger without them is another one, or was restored from before them.
        """
        mine, now = await self._installation.id(), self._clock()
        kept = [hold for hold in await asyncio.to_thread(self._kept.read) or () if hold.holds(now)]
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_ALL_IN_FORCE, mine, now)
            there = await connection.fetch(_THERE, [hold.hold_id for hold in kept]) if kept else ()
        known_ids = {row["hold_id"] for row in there}
        lost = tuple(hold for hold in kept if hold.hold_id not in known_ids)
        self._away, self._last = None, (*_holds(rows), *lost)
        return _holds(rows), lost

    async def keep(self) -> None:
        """Has state_dir know what the ledger knows, and the ledger what it has lost. HoldsNotKept: state_dir can't."""
        async with self._kept.lock():
            found, lost = await self._asked()
            await asyncio.to_thread(self._kept.write, (*found, *lost))
            if lost:
                await self._put_back(lost)

    async def _put_back(self, lost: Iterable[OperatorHold]) -> None:
        mine = await self._installation.settled()
        async with self._postgres.connection() as connection, connection.transaction():
            for one in lost:
                values = (one.table, one.stage.value, one.at, one.until, one.note, one.by, one.host)
                await connection.execute(_PUT_BACK, mine, one.hold_id, *values)
        log.warning(
            "holds_put_back",
            holds=[f"{one.table}: {one.stage} {one}" for one in lost],
            advice="The ledger did not have them: it is another one, or was restored from before they were given.",
        )

    async def newest(self, tables: Iterable[str] | None, limit: int) -> tuple[OperatorHold, ...]:
        """The newest of these tables (None: of all), newest first, whether in force, over or released."""
        mine, names = await self._installation.id(), None if tables is None else accepted(list(tables))
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_NEWEST, mine, names, limit)
        return _holds(rows)

    async def hold(
        self, table: str, stages: Iterable[Stage], until: datetime | None, note: str, by: str, host: str
    ) -> tuple[OperatorHold, ...]:
        """Puts these stages of a table on hold, beside any holds that they have.

        PermanentError where they are in the ledger, and not in state_dir.
        """
        mine, names = await self._installation.settled(), [stage.value for stage in stages]
        values = ([uuid4() for _ in names], names, self._clock(), until, *accepted((note, by, host)))
        async with self._postgres.connection() as connection:
            held = _holds(await connection.fetch(_HOLD, mine, accepted(table), *values))
        try:
            await self._keep_stored(held)
        except HoldsNotKept as exc:
            log.warning("holds_not_kept", error=str(exc))
            text = f"{table} is on hold in the ledger; but {exc}: this host may not know it while PostgreSQL is away"
            raise PermanentError(text, reason=exc.reason) from exc
        return held

    async def release(self, table: str, stages: Iterable[Stage], by: str, host: str) -> tuple[OperatorHold, ...]:
        """Ends all holds of these stages that are in force, and returns them; empty: there were none."""
        mine, names = await self._installation.settled(), [stage.value for stage in stages]
        try:
            await self.keep()  # also what the ledger has lost is released
        except HoldsNotKept as exc:
            log.warning("holds_not_kept", error=str(exc))
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_RELEASE, mine, self._clock(), accepted(table), names, *accepted((by, host)))
        try:
            await self._keep_stored(released := _holds(rows))
        except HoldsNotKept as exc:  # one too many is on disk, or nothing
            log.warning("holds_not_kept", error=str(exc))
        return released

    async def _keep_stored(self, changed: Collection[OperatorHold]) -> None:
        """Keeps what the ledger has now; where it went away meanwhile, what was kept with these changes."""
        try:
            await self.keep()
        except HoldsNotKept:
            raise
        except IcekeeperError as exc:
            log.warning("holds_not_read", error=str(exc))
            async with self._kept.lock():
                kept = await asyncio.to_thread(self._kept.read)
                if kept is not None:
                    by_id = {hold.hold_id: hold for hold in (*kept, *changed)}
                    in_force = [hold for hold in by_id.values() if hold.released_at is None]
                    await asyncio.to_thread(self._kept.write, in_force)


def _holds(rows: Iterable[Any]) -> tuple[OperatorHold, ...]:
    """Without those of stages that only a newer icekeeper knows."""
    return tuple(_hold(row, stage) for row in rows if (stage := known(Stage, row["stage"])) is not None)


def _hold(row: Any, stage: Stage) -> OperatorHold:
    return OperatorHold(
        hold_id=row["hold_id"],
        table=row["iceberg_table"],
        stage=stage,
        note=row["note"],
        by=row["held_by"],
        host=row["held_host"],
        at=row["held_at"],
        until=row["until"],
        released_at=row["released_at"],
        released_by=row["released_by"],
        released_host=row["released_host"],
    )
