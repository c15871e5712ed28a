"""Whose rows of the ledger are ours, where several icekeepers share one: the installation that a configuration is of.

It is known by an id that the ledger and state_dir keep, so that neither its name, nor its host, nor a warehouse that
has moved makes another one of it.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog

from icekeeper.adapters.ledger.identity import COPIED_ADVICE, FILE, Identity, Installed, find, free_name
from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.adapters.state_dir import give_to_its_owner
from icekeeper.core.errors import ConfigError, PermanentError
from icekeeper.core.reasons import Reason

log = structlog.get_logger(__name__)

# One process at a time in a database makes or claims: an advisory lock under a number of our own.
_LOCK = "SELECT pg_advisory_xact_lock($1)"
_LOCK_KEY = int.from_bytes(b"iceinsta", "big")
_ALL = "SELECT installation_id, name, catalog, tables FROM maintenance_installations ORDER BY made_at, name"
_MAKE = """
    INSERT INTO maintenance_installations (installation_id, name, catalog, tables) VALUES ($1, $2, $3, $4)
    ON CONFLICT (installation_id) DO UPDATE SET catalog = excluded.catalog, tables = excluded.tables
"""
_RENAME = "UPDATE maintenance_installations SET name = $2 WHERE installation_id = $1"
_UNCLAIMED = "SELECT EXISTS (SELECT FROM maintenance_runs WHERE installation_id IS NULL)"
# A run of which most tables are among $1; one that has begun since the installation $2 was made is an icekeeper's that
# is still of a version before, perhaps another one's.
_OURS = """
    installation_id IS NULL
    AND 2 * (SELECT count(*) FROM unnest(tables) AS name WHERE name = ANY($1::text[])) > cardinality(tables)
    AND started_at < (SELECT made_at FROM maintenance_installations WHERE installation_id = $2)
"""
# Tables that were removed from the configuration lie beside the others in runs of before.
_TABLES = f"""
    SELECT array_agg(DISTINCT name) FROM maintenance_runs CROSS JOIN unnest(tables || $1::text[]) AS name WHERE {_OURS}
"""
# By their tables; then those that have none (slots that were missed) or only tables of before by what else they have;
# and what nothing tells, such as a missed slot of settings that never ran, where no other's runs are left.
_CLAIM_RUNS = (
    f"UPDATE maintenance_runs SET installation_id = $2 WHERE {_OURS}",
    """
    UPDATE maintenance_runs AS run SET installation_id = $2
    WHERE installation_id IS NULL AND $1::text[] IS NOT NULL AND (
      settings_hash IN (SELECT settings_hash FROM maintenance_runs WHERE installation_id = $2)
      OR coalesce(tables, '{}') = '{}' AND EXISTS (
        SELECT FROM maintenance_tasks AS task WHERE task.run_id = run.run_id AND iceberg_table = ANY($1::text[])))
    """,
    """
    UPDATE maintenance_runs SET installation_id = $2
    WHERE installation_id IS NULL AND $1::text[] IS NOT NULL AND NOT EXISTS (
      SELECT FROM maintenance_runs WHERE installation_id IS NULL AND coalesce(tables, '{}') <> '{}')
    """,
)
_CLAIM_ROWS = statement("claim_rows")
_CLAIM_LOADS = """
    UPDATE maintenance_config_loads SET installation_id = $1
    WHERE installation_id IS NULL
      AND settings_hash IN (SELECT settings_hash FROM maintenance_runs WHERE installation_id = $1)
"""
# Claiming the rows of years takes longer than a statement of a night may.
_CLAIM_S = 600.0
# Of no installation: a new one reads nothing.
_NONE = UUID(int=0)


class Installation:
    """Our installation. Every method raises what `Postgres.connection` and `find` do."""

    def __init__(self, postgres: Postgres, identity: Identity, state_dir: Path | None = None) -> None:
        """Asks nothing. Without `state_dir` it is not kept on disk."""
        self._postgres = postgres
        self._identity = identity
        self._state_dir = state_dir
        self._settled: UUID | None = None
        self._settling: asyncio.Task[UUID] | None = None

    async def id(self) -> UUID:
        """Its id, to read by: changes nothing. That of no rows where it is new."""
        if self._settled is not None:
            return self._settled
        if self._settling is not None and not self._settling.done():
            return await asyncio.shield(self._settling)
        async with self._postgres.connection() as connection:
            found = find(self._identity, self._kept(), await _known(connection))
        return _NONE if found is None else found.id

    async def settled(self) -> UUID:
        """Its id, to write by: from then on it is in the ledger and in state_dir, and has its rows of before.

        What fails is `ledger_down`, of no record's own: records wait.
        """
        if self._settled is not None:
            return self._settled
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())
            self._settling.add_done_callback(lambda task: task.cancelled() or task.exception())
        # A caller's timeout must not undo it: the next one would begin anew.
        return await asyncio.shield(self._settling)

    async def named(self, name: str) -> UUID:
        """The id of the installation of that name. ConfigError where there is none."""
        async with self._postgres.connection() as connection:
            known = await _known(connection)
        found = next((one for one in known if one.name == name), None)
        if found is None:
            names = ", ".join(one.name for one in known) or "none"
            raise ConfigError([f"no installation has the name {name}; in the ledger: {names}"])
        return found.id

    async def names(self) -> tuple[str, ...]:
        """All that are in the ledger, the oldest first."""
        async with self._postgres.connection() as connection:
            return tuple(one.name for one in await _known(connection))

    def require_name(self, name: str) -> None:
        """ConfigError where the settings give it another name than the one that it is to get."""
        if self._identity.name not in (None, name):
            text = f"the settings name it {self._identity.name}: write `installation: {name}` there first"
            raise ConfigError([text])

    def _unnamed(self) -> Identity:
        return Identity(None, catalog=self._identity.catalog, tables=self._identity.tables)

    async def id_by_any_name(self) -> UUID:
        """Like `id`, whatever name the settings give it. ConfigError where there is none."""
        async with self._postgres.connection() as connection:
            found = find(self._unnamed(), self._kept(), await _known(connection))
        if found is None:
            text = f"the ledger has no row of this installation: neither {FILE} nor the catalog and tables match one"
            raise ConfigError([text])
        return found.id

    async def rename(self, name: str) -> str:
        """Gives ours another name and returns the one before. ConfigError where it is taken, or there is none yet."""
        self.require_name(name)
        identity = self._unnamed()
        async with self._postgres.connection() as connection, connection.transaction():
            await connection.execute(_LOCK, _LOCK_KEY)
            known = await _known(connection)
            found = find(identity, self._kept(), known)
            if found is None:
                raise ConfigError(["this installation has no row in the ledger yet: run `icekeeper migrate`"])
            if any(one.name == name for one in known if one is not found):
                raise ConfigError([f"{name} is the name of another installation in this ledger"])
            await connection.execute(_RENAME, found.id, name)
        self._keep(replace(found, name=name))
        return found.name

    async def _settle(self) -> UUID:
        try:
            return await self._make_and_claim()
        except PermanentError as exc:
            if exc.reason is not Reason.UNEXPECTED:
                raise
            text = f"the installation's rows of before can't be taken: {exc}"
            raise PermanentError(text, reason=Reason.LEDGER_DOWN) from exc

    async def _make_and_claim(self) -> UUID:
        identity, kept = self._identity, self._kept()
        tables = list(identity.tables)
        async with self._postgres.connection() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL statement_timeout = '{_CLAIM_S:g}s'")
            await connection.execute(_LOCK, _LOCK_KEY, timeout=_CLAIM_S)
            known = await _known(connection)
            found = find(identity, kept, known)
            if found is None:
                wanted = identity.name or (kept.name if kept else identity.default_name)
                name = free_name(wanted, (one.name for one in known))
                # One that was kept is of a ledger of before, or was moved to another database.
                found = Installed(kept.id if kept else uuid4(), name)
                log.info("installation_made", installation=name)
            await connection.execute(_MAKE, found.id, found.name, identity.catalog, tables)
            if await connection.fetchval(_UNCLAIMED):
                await _claim(connection, found, tables)
        if found.catalog not in ("", identity.catalog):
            log.warning("installation_catalog_changed", installation=found.name, advice=COPIED_ADVICE)
        self._keep(found)
        self._settled = found.id
        return found.id

    def _kept(self) -> Installed | None:
        if self._state_dir is None:
            return None
        path = self._state_dir / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return Installed(UUID(document["id"]), str(document["name"]))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as exc:
            # Without it another might be taken for ours.
            text = f"{path} can't be read ({exc}): mend it, or remove it to be found by catalog and tables"
            raise PermanentError(text, reason=Reason.LEDGER_DOWN) from exc

    def _keep(self, installed: Installed) -> None:
        """Where state_dir is not there yet, or can't be written, the ledger alone has it."""
        if self._state_dir is None or not self._state_dir.is_dir():
            return
        path = self._state_dir / FILE
        new = path.with_name(f".{FILE}.{os.getpid()}")
        try:
            new.write_text(json.dumps({"id": str(installed.id), "name": installed.name}) + "\n", encoding="utf-8")
            give_to_its_owner(new)
            new.replace(path)
        except OSError as exc:
            log.warning("installation_not_kept", path=str(path), error=str(exc))


async def _known(connection: Any) -> tuple[Installed, ...]:
    rows = await connection.fetch(_ALL)
    return tuple(
        Installed(row["installation_id"], row["name"], row["catalog"], frozenset(row["tables"])) for row in rows
    )


async def _claim(connection: Any, by: Installed, tables: list[str]) -> None:
    """Takes the rows of before that match the tables, and of what no table tells whose it is what is left over.

    On a connection within a transaction, under the lock.
    """
    tables = await connection.fetchval(_TABLES, tables, by.id, timeout=_CLAIM_S) or tables
    tags = [await connection.execute(claim, tables, by.id, timeout=_CLAIM_S) for claim in _CLAIM_RUNS]
    for table in ("audit_log", "evidence", "acks", "repairs"):
        await connection.execute(_CLAIM_ROWS.replace("{table}", table), by.id, tables, timeout=_CLAIM_S)
    await connection.execute(_CLAIM_LOADS, by.id)
    runs = sum(int(tag.rpartition(" ")[2]) for tag in tags)  # UPDATE 123
    if runs:
        log.info("rows_claimed", installation=by.name, runs=runs)
