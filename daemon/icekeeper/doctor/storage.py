"""Which rights are missing on the store, from what a probe could do and what was refused: pure rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from icekeeper.adapters.iceberg.probe import StoreProbe
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.formats import counted, listed
from icekeeper.core.reasons import Reason
from icekeeper.doctor.check import PERMISSIONS, Check, Subject
from icekeeper.settings.systems import Catalog

# After one of these every other table would fail, too.
_HOPELESS = frozenset({Reason.ENGINE_DOWN, Reason.CATALOG_DOWN, Reason.STORAGE_DOWN, Reason.DEADLINE})
_CREDENTIALS = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|Access Key Id|signature|load credentials|password|NotAuthorized",
    re.IGNORECASE,
)
_S3 = re.compile(r"Service: S3|S3Exception|awssdk", re.IGNORECASE)
_S3_KEYS = ("s3.access-key-id", "s3.secret-access-key")
_CATALOG_KEYS = ("jdbc.user", "jdbc.password", "credential", "token")
_ACTIONS = {"read": "s3:GetObject", "write": "s3:PutObject", "delete": "s3:DeleteObject", "check": "s3:ListBucket"}
_WORDS = {
    "read": "read a file of the table",
    "write": "write",
    "bulk_delete": "delete",
    "delete": "delete",
    "check": "see whether an object exists",
    "list": "list",
}
_NEEDED = ("read", "write", "bulk_delete", "check")
_OLD_MINIO = (
    "The store refuses deletions in bulk, as an old MinIO does: set AWS_REQUEST_CHECKSUM_CALCULATION=WHEN_REQUIRED "
    'in icekeeper\'s environment, and client.legacy-md5-plugin-enabled: "true" in catalog.properties.'
)


def is_final(error: IcekeeperError) -> bool:
    """Whether the next table would fail, too."""
    return error.reason in _HOPELESS or (error.reason is Reason.ACCESS_DENIED and bool(_CREDENTIALS.search(str(error))))


def store_error(error: IcekeeperError, catalog: Catalog, otherwise: Subject = Subject.TABLES) -> Check:
    """A table that could not be read: which system refused, and what to correct; `otherwise` where that is unknown."""
    text = str(error)
    if error.reason is Reason.ACCESS_DENIED and _S3.search(text):
        if _CREDENTIALS.search(text):
            named = _set(_S3_KEYS, catalog) or "the credentials in the environment"
            return Subject.STORAGE.failure_of(error, f"Correct {named}.")
        allow = _allowed(["read"], catalog.warehouse or "", catalog.warehouse)
        return Subject.STORAGE.failure_of(error, f"Allow {allow} ({PERMISSIONS}).")
    if error.reason in (Reason.STORAGE_DOWN, Reason.FILE_MISSING):
        return Subject.STORAGE.failure_of(error)
    if error.reason is Reason.ACCESS_DENIED:
        named = _set(_CATALOG_KEYS, catalog) or "the catalog's credentials"
        return Subject.CATALOG.failure_of(error, f"Correct {named}, or give that account its rights ({PERMISSIONS}).")
    if error.reason in (Reason.CATALOG_DOWN, Reason.DEADLINE):
        return Subject.CATALOG.failure_of(error)
    return (Subject.ENGINE if error.reason is Reason.ENGINE_DOWN else otherwise).failure_of(error)


def refused_read_check(error: IcekeeperError, catalog: Catalog) -> Check:
    """A failed read that did not go through the catalog: the store is to blame."""
    return store_error(error, catalog) if error.reason is Reason.ACCESS_DENIED else Subject.STORAGE.failure_of(error)


def _set(keys: Sequence[str], catalog: Catalog) -> str:
    return " and ".join(f"catalog.properties: {key}" for key in keys if key in catalog.properties)


def store_checks(probes: Sequence[StoreProbe], warehouse: str | None) -> list[Check]:
    """What the probes beside the tables' data could do: one check if all worked, else one for each set of failures."""
    checks = [_left(probe) for probe in probes if probe.left]
    by_failure: dict[tuple[str, ...], list[StoreProbe]] = {}
    for probe in probes:
        failed = tuple(step for step in _WORDS if step in probe.errors)
        by_failure.setdefault(failed, []).append(probe)
    for steps, alike in by_failure.items():
        if not steps:
            io = alike[0].io
            text = f"{io} reads, writes, deletes and finds beside the data of {counted(len(alike), 'table')}"
            checks.append(Subject.STORAGE.passed(text))
        elif set(steps) & set(_NEEDED):
            checks.append(_refused(steps, alike, warehouse))
        else:
            text = f"{alike[0].io} can't list beside {listed(probe.table for probe in alike)}"
            allow = _allowed(["check"], alike[0].path, warehouse)
            checks.append(Subject.STORAGE.warning(text, f"Allow {allow} ({PERMISSIONS})."))
    return checks


def _refused(steps: tuple[str, ...], alike: list[StoreProbe], warehouse: str | None) -> Check:
    probe = alike[0]
    first = next(step for step in _NEEDED if step in steps)
    # The error of the bulk deletion has the number of failures, that of the single one after it the cause.
    error = probe.errors.get("delete", probe.errors[first]) if first == "bulk_delete" else probe.errors[first]
    words = list(dict.fromkeys(_WORDS[step] for step in steps if step != "list"))
    text = f"{probe.io} may not {' and '.join(words)} beside {listed(each.table for each in alike)}: {error}"
    if steps == ("bulk_delete",):
        return Subject.STORAGE.failure(text, _OLD_MINIO)
    if any(probe.errors[step].reason is not Reason.ACCESS_DENIED for step in steps if step in _ACTIONS):
        if len(words) == 1:
            return Subject.STORAGE.failure_of(error)
        return Subject.STORAGE.failure(text, error.reason.advice)
    allow = _allowed([step for step in steps if step in _ACTIONS], probe.path, warehouse)
    return Subject.STORAGE.failure(text, f"Allow {allow} ({PERMISSIONS}).")


def _left(probe: StoreProbe) -> Check:
    why = "the store said that it was deleted" if probe.kept else "it could not be deleted"
    advice = f"Remove {probe.path} by hand."
    if probe.kept:
        advice += " Where the catalog sets s3.delete-enabled: false, expiry is held, or tags files (s3.delete.tags.*)."
    return Subject.STORAGE.failure(f"the doctor's own probe is still in the store, though {why}", advice)


def _allowed(steps: Sequence[str], path: str, warehouse: str | None) -> str:
    """The actions of a policy, or the rights of a user, that these steps need; on the warehouse where the path is."""
    if warehouse and "/" in warehouse and path.startswith(warehouse):
        root = warehouse.rstrip("/")
    else:
        root = path.rpartition("/data/")[0] or path
    url = urlsplit(root)
    if not url.scheme.startswith("s3"):
        return f"icekeeper's user to read and write below {url.path}"
    objects = " and ".join(dict.fromkeys(_ACTIONS[step] for step in steps if step != "check"))
    below = f"arn:aws:s3:::{url.netloc}{url.path}"
    wanted = [f"{objects} on {below}/*"] if objects else []
    if "check" in steps:
        wanted.append(f"{_ACTIONS['check']} on arn:aws:s3:::{url.netloc}")
    return " and ".join(wanted)
