"""The ClickHouse settings that keep a count whole: fixed for each count, whatever the user's profile says. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.core.audit.source_settings import DISTRIBUTED_SETTINGS, EXACT_SETTINGS, FINAL, TIMEZONE
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason

# Engines whose rows are what was inserted: FINAL does nothing on them.
_PLAIN = ("MergeTree", "ReplicatedMergeTree", "SharedMergeTree")

# Names of one and the same time zone.
_UTC = (
    "Etc/UTC",
    "UCT",
    "Etc/UCT",
    "Universal",
    "Etc/Universal",
    "Zulu",
    "Etc/Zulu",
    "GMT",
    "Etc/GMT",
    "Etc/Greenwich",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of system.settings as our user sees it. `fixed`: our user may not change it."""

    name: str
    value: str
    fixed: bool


def counts_final(engine: str | None, final: bool | None) -> bool:
    """Whether a count merges rows of one key: `final` where it says so, else as far as FINAL may change anything.

    Rows may merge in the table's engine, or in tables that it reads; None: the engine is not known.
    """
    return engine not in _PLAIN if final is None else final


def is_local(engine: str | None) -> bool:
    """Whether a table of this engine surely reads no other server."""
    return engine is not None and engine.endswith("MergeTree")


def exact_settings(
    seen: Iterable[Setting], options: ClickHouseOptions, *, final: bool | None, local: bool
) -> dict[str, str]:
    """What to send with a count. Settings that the server doesn't know, or has fixed, are left out.

    `final`: rows of one key are merged wherever FINAL can be applied, through views, too; None: it does not matter.
    `local`: the table reads no other server. PermanentError `source_limited` where the profile fixes a value with
    which rows could be left out.
    """
    known = {setting.name: setting for setting in seen}
    wanted = {**EXACT_SETTINGS, **DISTRIBUTED_SETTINGS}
    if final is not None:
        wanted[FINAL] = str(int(final))
        if final and FINAL not in known:
            text = "this server is too old to merge rows while it counts (it has no setting final): update it, or set "
            raise PermanentError(f"{text}audit.final: false", reason=Reason.SOURCE_LIMITED, where=options.where)
    fixed = {name: known[name].value for name in wanted if name in known and known[name].fixed}
    wrong = [
        f"{name} = {value!r}"
        for name, value in fixed.items()
        if value != wanted[name]
        and not (local and name in DISTRIBUTED_SETTINGS)
        and not (name == TIMEZONE and value in _UTC)
    ]
    if wrong:
        raise PermanentError(
            f"the profile of user {options.user} fixes {', '.join(wrong)} (by readonly = 1 or a constraint): a count "
            "could leave rows out",
            reason=Reason.SOURCE_LIMITED,
            where=options.where,
        )
    return {name: value for name, value in wanted.items() if name in known and name not in fixed}


def require_utc(zone: str, where: str) -> None:
    """PermanentError `source_limited` where a server's own time zone, which is that of its sessions, is not UTC."""
    if zone not in (*_UTC, EXACT_SETTINGS[TIMEZONE]):
        text = f"this server (before 23.6) has no session_timezone, and its own time zone is {zone}: hours of columns "
        text += "without a zone would be those of that zone; set the server's <timezone> to UTC, or update it"
        raise PermanentError(text, reason=Reason.SOURCE_LIMITED, where=where)
