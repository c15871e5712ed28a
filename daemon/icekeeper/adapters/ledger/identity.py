"""Which of the installations in a ledger a configuration is of. Pure: what is kept where is up to installation.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason

FILE = "installation.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a configuration says of its installation. `name`: the setting; `catalog`: a hash of where it is; `replicas`:
    whether daemons on several hosts are to be of it; `place`: the inode of its state_dir, None where it has none."""

    name: str | None
    default_name: str = "icekeeper"
    catalog: str = ""
    tables: tuple[str, ...] = ()
    replicas: bool = False
    place: int | None = None


@dataclass(frozen=True, slots=True)
class Installed:
    """A row of maintenance_installations, or what state_dir keeps of it: id and name, the catalog that it was of last,
    and in which `place`."""

    id: UUID
    name: str
    catalog: str = ""
    tables: frozenset[str] = frozenset()
    place: int | None = None


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
        if own is not None and kept is not None:
            _require_one(identity, kept, own)
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


def _require_one(identity: Identity, kept: Installed, own: Installed) -> None:
    """PermanentError where two catalogs have the same installation, as that of a state_dir that was copied.

    One whose catalog has moved finds its former one in both state_dir and ledger, and its state_dir where it was.
    """
    if own.catalog == identity.catalog or not kept.catalog:
        return
    if kept.catalog == identity.catalog:
        text = (
            f"another icekeeper with the same {FILE} keeps rows of another catalog as {own.name!r}: a state_dir was "
            f"copied. Stop that one and remove {FILE} from its state_dir, write `installation: {own.name}` here, and "
            "start this one first"
        )
    elif None not in (kept.place, identity.place) and kept.place != identity.place:
        text = (
            f"this state_dir is a copy of that of the installation {own.name!r}, which is of another catalog: remove "
            f"{FILE} from the copy, so that it becomes an installation of its own, or, if it has moved along with its "
            f"catalog, write `installation: {own.name}`"
        )
    else:
        return
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
