"""Who else keeps rows in the ledger, and whether two maintain the same table."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from icekeeper.adapters.ledger.identity import COPIED_ADVICE
from icekeeper.core.formats import counted, listed
from icekeeper.doctor.check import Check, Subject
from icekeeper.execution.wiring import Services

_ALL = """
    SELECT installation_id, name, tables, catalog, (SELECT max(started_at) FROM maintenance_runs AS run
                                                    WHERE run.installation_id = one.installation_id) AS last_run
    FROM maintenance_installations AS one ORDER BY name
"""
_UNCLAIMED = "SELECT count(*) AS runs, max(started_at) AS last_run FROM maintenance_runs WHERE installation_id IS NULL"


async def examine_installations(services: Services) -> list[Check]:
    """Whether ours was of another catalog, and the other ones in the database: their tables, when they last ran."""
    mine = await services.installation.id()
    async with services.postgres.connection() as connection:
        known = await connection.fetch(_ALL)
        unclaimed = await connection.fetchrow(_UNCLAIMED)
    # It is in the ledger from its first run, or from `icekeeper migrate` on.
    checks = _unclaimed(unclaimed) if unclaimed["runs"] and mine != UUID(int=0) else []
    settings = services.settings
    names, catalog = {policy.name for policy in settings.policies()}, settings.catalog.digest()
    for own in known:
        if own["installation_id"] == mine and own["catalog"] not in ("", catalog):
            text = f"the installation {own['name']!r} was last of another catalog than that of these settings"
            checks.append(Subject.POSTGRES.warning(text, COPIED_ADVICE))
    for other in (one for one in known if one["installation_id"] != mine):
        last = f"{other['last_run']:%Y-%m-%dT%H:%M:%SZ}" if other["last_run"] is not None else "never"
        text = (
            f"the installation {other['name']!r} keeps its runs in this ledger, too: "
            f"{counted(len(other['tables']), 'table')}, last run {last}"
        )
        both = sorted(names & set(other["tables"])) if other["catalog"] == catalog else []
        if both:
            advice = (
                "Let one of them alone maintain a table. If both are one, and its state_dir was lost or is another "
                f"replica's: set `installation: {other['name']}`."
            )
            checks.append(Subject.POSTGRES.warning(f"{text}, and maintains {listed(both)} of the same catalog", advice))
        else:
            checks.append(Subject.POSTGRES.passed(text))
    return checks


def _unclaimed(row: Any) -> list[Check]:
    text = (
        f"{counted(row['runs'], 'run')} of before there were installations, last at "
        f"{row['last_run']:%Y-%m-%dT%H:%M:%SZ}, match no installation's tables"
    )
    advice = (
        "Start the icekeeper that they are of; those of one that is gone are shown by `history --installation all`."
    )
    return [Subject.POSTGRES.warning(text, advice)]
