"""Holds of operators in the ledger, and those in force on disk, for the time that the ledger is away."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.ledger.rows import known
from icekeeper.adapters.ledger.store import accepted
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.adapters.records import from_plain
from icekeeper.adapters.state_dir import give_to_its_owner
from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.plain import to_plain
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.night.ports import Clock

log = structlog.get_logger(__name__)

FILE = "holds.json"
# A server that does not answer takes seconds to say so, and every task of a night asks.
_ASK_AGAIN = timedelta(minutes=1)
_IN_FORCE = "released_at IS NULL AND (until IS NULL OR until > $2) AND installation_id = $1"
_ALL_IN_FORCE = f"SELECT * FROM maintenance_holds WHERE {_IN_FORCE} ORDER BY iceberg_table, held_at, stage, hold_id"
_NEWEST = """
    SELECT * FROM maintenance_holds WHERE iceberg_table = ANY($2::text[]) AND installation_id = $1
    ORDER BY held_at DESC, stage, hold_id LIMIT $3
"""
_HOLD = """
    INSERT INTO maintenance_holds
      (hold_id, installation_id, iceberg_table, stage, held_at, until, note, held_by, held_host)
    SELECT hold_id, $1, $2, stage, $5, $6, $7, $8, $9 FROM unnest($3::uuid[], $4::text[]) AS new (hold_id, stage)
    RETURNING *
"""
_RELEASE = f"""
    UPDATE maintenance_holds
    SET released_at = $2, released_by = $5, released_host = $6
    WHERE {_IN_FORCE} AND iceberg_table = $3 AND stage = ANY($4::text[])
    RETURNING *
"""


class KeptHolds:
    """The holds in state_dir that were in force when the ledger last answered."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE

    def read(self) -> tuple[OperatorHold, ...] | None:
        """None where there is no file, or it can't be read. Raises nothing."""
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            return tuple(from_plain(OperatorHold, one) for one in document["holds"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as exc:
            log.warning("kept_holds_not_read", path=str(self._path), error=str(exc))
            return None

    def write(self, holds: Iterable[OperatorHold]) -> None:
        """In place of those before, wholly or not at all. What prevents it is logged: the ledger has them."""
        holds = tuple(holds)
        if not self._path.parent.is_dir() or self.read() == holds:
            return
        new = self._path.with_name(f".{FILE}.{os.getpid()}")
        try:
            with new.open("w", encoding="utf-8") as file:
                file.write(json.dumps({"holds": to_plain(holds, exact=True)}, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            give_to_its_owner(new)
            new.replace(self._path)
        except OSError as exc:
            log.warning("holds_not_kept", path=str(self._path), error=str(exc))


class PostgresHolds:
    """Implements ports.Holds on the ledger's database, of one installation.

    Every method raises what `Postgres.connection` and `Installation` do.
    """

    def __init__(self, postgres: Postgres, installation: Installation, state_dir: Path, clock: Clock) -> None:
        self._postgres = postgres
        self._installation = installation
        self._kept = KeptHolds(state_dir)
        self._clock = clock
        # What is read later is written later.
        self._keeping = asyncio.Lock()
        # When the ledger could not be asked last, and why.
        self._away: tuple[datetime, IcekeeperError] | None = None

    async def of(self, table: str) -> tuple[OperatorHold, ...]:
        """As the port has it. Changes nothing, on disk neither."""
        return tuple(hold for hold in await self._known() if hold.table == table)

    async def _known(self) -> tuple[OperatorHold, ...]:
        now = self._clock()
        if self._away is None or not timedelta() <= now - self._away[0] < _ASK_AGAIN:
            try:
                return await self.in_force()
            except IcekeeperError as exc:
                log.warning("holds_read_from_disk", error=str(exc))
                self._away = (now, exc)
        kept = await asyncio.to_thread(self._kept.read)
        if kept is None:
            raise self._away[1]
        return kept

    async def in_force(self) -> tuple[OperatorHold, ...]:
        """All of this installation, table by table."""
        mine = await self._installation.id()
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_ALL_IN_FORCE, mine, self._clock())
        self._away = None
        return _holds(rows)

    async def keep(self) -> None:
        """Has state_dir know what the ledger knows."""
        async with self._keeping:
            found = await self.in_force()
            await asyncio.to_thread(self._kept.write, found)

    async def newest(self, tables: Iterable[str], limit: int) -> tuple[OperatorHold, ...]:
        """The newest of these tables, newest first, whether in force, over or released."""
        mine = await self._installation.id()
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_NEWEST, mine, accepted(list(tables)), limit)
        return _holds(rows)

    async def hold(
        self, table: str, stages: Iterable[Stage], until: datetime | None, note: str, by: str, host: str
    ) -> tuple[OperatorHold, ...]:
        """Puts these stages of a table on hold, beside any holds that they have."""
        mine, names = await self._installation.settled(), [stage.value for stage in stages]
        values = ([uuid4() for _ in names], names, self._clock(), until, *accepted((note, by, host)))
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_HOLD, mine, accepted(table), *values)
        await self._keep_stored()
        return _holds(rows)

    async def release(self, table: str, stages: Iterable[Stage], by: str, host: str) -> tuple[OperatorHold, ...]:
        """Ends all holds of these stages that are in force, and returns them; empty: there were none."""
        mine, names = await self._installation.settled(), [stage.value for stage in stages]
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_RELEASE, mine, self._clock(), accepted(table), names, *accepted((by, host)))
        await self._keep_stored()
        return _holds(rows)

    async def _keep_stored(self) -> None:
        try:
            await self.keep()
        except IcekeeperError as exc:  # the ledger has it all the same
            log.warning("holds_not_kept", error=str(exc))


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
