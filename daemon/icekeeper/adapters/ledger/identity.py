"""Which of the installations in a ledger a configuration is of. Pure: what is kept where is up to installation.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason

FILE = "installation.json"
# A catalog that has moved and a state_dir that was copied look the same from here: nothing is refused.
COPIED_ADVICE = (
    "If the catalog has moved, or is only written otherwise, there is nothing to do. If a state_dir was copied, the "
    "rows of two catalogs are merged in one installation: stop the icekeeper of the copy, remove "
    f"{FILE} and spool.db* from the copy's state_dir, and the name of the installation from its settings; restart the "
    "original, then start the copy."
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a configuration says of its installation. `name`: the setting; `catalog`: a hash of where it is; `replicas`:
    whether daemons on several hosts are to be of it."""

    name: str | None
    default_name: str = "icekeeper"
    catalog: str = ""
    tables: tuple[str, ...] = ()
    replicas: bool = False


@dataclass(frozen=True, slots=True)
class Installed:
    """A row of maintenance_installations with the catalog that it was of last, or what state_dir keeps of it (id and
    name)."""

    id: UUID
    name: str
    catalog: str = ""
    tables: frozenset[str] = frozenset()


def find(identity: Identity, kept: Installed | None, known: Iterable[Installed]) -> Installed | None:
    """Which of those in the ledger a configuration is of; None: of a new one.

    The one that state_dir keeps; else the one of the name in the settings; without such a name the one with the same
    catalog and most of the same tables: a replica's, or that of a state_dir that was lost. PermanentError where they
    contradict each other.
    """
    known = tuple(known)
    own = next((one for one in known if kept is not None and one.id == kept.id), None)
    same = (one for one in known if one.catalog == identity.catalog and _mostly_same(one.tables, identity.tables))
    alike = next(same, None)
    if identity.name is None:
        found = own or alike
        shared = [one for one in known if one.tables & set(identity.tables)]
        if found is None and identity.replicas and shared:
            text = (
                f"the installation {shared[0].name!r} has tables of these settings, in another catalog or with others,"
                f" and with replicas: true two could lead: write `installation: {shared[0].name}`, or a name of its own"
            )
            raise PermanentError(text, reason=Reason.LEDGER_DOWN)
        return found
    named = next((one for one in known if one.name == identity.name), None)
    if own is None and named is None and alike is not None:
        text = (
            f"the ledger has the installation of this catalog and these tables as {alike.name!r}, and the settings "
            f"name it {identity.name!r}: run `icekeeper ledger rename {identity.name}`, or write "
            f"`installation: {alike.name}`"
        )
        raise PermanentError(text, reason=Reason.LEDGER_DOWN)
    if own is None or own is named:
        return named
    if named is None:
        todo = f"run `icekeeper ledger rename {identity.name}`, or, if this is to be another one, remove {FILE} there"
    else:
        todo = f"write `installation: {own.name}`, or remove {FILE} there to share the rows of {identity.name!r}"
    text = f"state_dir is of the installation {own.name!r}, and the settings name {identity.name!r}: {todo}"
    raise PermanentError(text, reason=Reason.LEDGER_DOWN)


def _mostly_same(tables: frozenset[str], others: Iterable[str]) -> bool:
    """Two that share one table by mistake are no one installation; one whose tables were changed still is."""
    others = frozenset(others)
    return 2 * len(tables & others) > len(tables | others)


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """
    >>> free_name("k2", ["k2", "k2-2"])
    'k2-3'
    """
    names, number = set(taken), 2
    name = wanted
    while name in names:
        name, number = f"{wanted}-{number}", number + 1
    return name
