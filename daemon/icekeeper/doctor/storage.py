"""What the store let us do and what it refused, as the right that is missing: pure rules. Who asks: `lake.py`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from icekeeper.adapters.iceberg.probe import StoreProbe
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.reasons import Reason
from icekeeper.doctor.check import PERMISSIONS, Check, Part, counted, failed, fine, listed, warning, wrong
from icekeeper.settings.systems import Catalog

# After one of these no other table fares better.
_HOPELESS = frozenset({Reason.ENGINE_DOWN, Reason.CATALOG_DOWN, Reason.STORAGE_DOWN, Reason.DEADLINE})
_CREDENTIALS = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|Access Key Id|signature|load credentials|password|NotAuthorized",
    re.IGNORECASE,
)
_S3 = re.compile(r"Service: S3|S3Exception|awssdk", re.IGNORECASE)
_S3_KEYS = ("s3.access-key-id", "s3.secret-access-key")
_CATALOG_KEYS = ("jdbc.user", "jdbc.password", "credential", "token")
_ACTIONS = {"read": "s3:GetObject", "write": "s3:PutObject", "delete": "s3:DeleteObject", "look": "s3:ListBucket"}
_WORDS = {
    "read": "read a file of the table",
    "write": "write",
    "bulk_delete": "delete",
    "delete": "delete",
    "look": "see what is there",
    "list": "list",
}
_NEEDED = ("read", "write", "bulk_delete", "look")
_OLD_MINIO = (
    "The store refuses deletions in bulk, as an old MinIO does: set AWS_REQUEST_CHECKSUM_CALCULATION=WHEN_REQUIRED "
    'in icekeeper\'s environment, and client.legacy-md5-plugin-enabled: "true" in catalog.properties.'
)


def is_final(error: IcekeeperError) -> bool:
    """Whether the next table would fare no better."""
    return error.reason in _HOPELESS or (error.reason is Reason.ACCESS_DENIED and bool(_CREDENTIALS.search(str(error))))


def store_error(error: IcekeeperError, catalog: Catalog, otherwise: Part = Part.TABLES) -> Check:
    """A table that could not be read: which part refused, and what to correct; `otherwise` where it doesn't show."""
    text = str(error)
    if error.reason is Reason.ACCESS_DENIED and _S3.search(text):
        if _CREDENTIALS.search(text):
            return failed(
                Part.STORAGE, error, f"Correct {_set(_S3_KEYS, catalog) or 'the credentials in the environment'}."
            )
        allow = _allowed(["read"], catalog.warehouse or "", catalog.warehouse)
        return failed(Part.STORAGE, error, f"Allow {allow} ({PERMISSIONS}).")
    if error.reason in (Reason.STORAGE_DOWN, Reason.FILE_MISSING):
        return failed(Part.STORAGE, error)
    if error.reason is Reason.ACCESS_DENIED:
        named = _set(_CATALOG_KEYS, catalog) or "the catalog's credentials"
        return failed(Part.CATALOG, error, f"Correct {named}, or give that account its rights ({PERMISSIONS}).")
    if error.reason in (Reason.CATALOG_DOWN, Reason.DEADLINE):
        return failed(Part.CATALOG, error)
    return failed(Part.ENGINE if error.reason is Reason.ENGINE_DOWN else otherwise, error)


def refused_read_check(error: IcekeeperError, catalog: Catalog) -> Check:
    """A read past the catalog that failed: whatever it was, it was the store."""
    return store_error(error, catalog) if error.reason is Reason.ACCESS_DENIED else failed(Part.STORAGE, error)


def _set(keys: Sequence[str], catalog: Catalog) -> str:
    return " and ".join(f"catalog.properties: {key}" for key in keys if key in catalog.properties)


def store_checks(probes: Sequence[StoreProbe], warehouse: str | None) -> list[Check]:
    """What the probes beside the tables' data could do: one line if all could, else one for each way to fail."""
    checks = [check for probe in probes if probe.left for check in _left(probe)]
    ways: dict[tuple[str, ...], list[StoreProbe]] = {}
    for probe in probes:
        ways.setdefault(_failed_steps(probe), []).append(probe)
    for steps, like in ways.items():
        if not steps:
            io = like[0].io
            told = f"{io} reads, writes, deletes and finds beside the data of {counted(len(like), 'table')}"
            checks.append(fine(Part.STORAGE, told))
        elif set(steps) & set(_NEEDED):
            checks.append(_refused(steps, like, warehouse))
        else:
            text = f"{like[0].io} can't list beside {listed(probe.table for probe in like)}"
            allow = _allowed(["look"], like[0].path, warehouse)
            checks.append(warning(Part.STORAGE, text, f"Allow {allow} ({PERMISSIONS})."))
    return checks


def _failed_steps(probe: StoreProbe) -> tuple[str, ...]:
    return tuple(step for step in _WORDS if step in probe.errors)


def _refused(steps: tuple[str, ...], like: list[StoreProbe], warehouse: str | None) -> Check:
    probe = like[0]
    first = next(step for step in _NEEDED if step in steps)
    # The bulk deletion tells how many failed, the single one after it tells why.
    error = probe.errors.get("delete", probe.errors[first]) if first == "bulk_delete" else probe.errors[first]
    words = list(dict.fromkeys(_WORDS[step] for step in steps if step != "list"))
    text = f"{probe.io} may not {' and '.join(words)} beside {listed(each.table for each in like)}: {error}"
    if steps == ("bulk_delete",):
        return wrong(Part.STORAGE, text, _OLD_MINIO)
    if any(probe.errors[step].reason is not Reason.ACCESS_DENIED for step in steps if step in _ACTIONS):
        return failed(Part.STORAGE, error) if len(words) == 1 else wrong(Part.STORAGE, text, error.reason.advice)
    allow = _allowed([step for step in steps if step in _ACTIONS], probe.path, warehouse)
    return wrong(Part.STORAGE, text, f"Allow {allow} ({PERMISSIONS}).")


def _left(probe: StoreProbe) -> list[Check]:
    why = "the store said that it was deleted" if probe.kept else "it could not be deleted"
    advice = f"Remove {probe.path} by hand."
    if probe.kept:
        advice += " If catalog.properties sets s3.delete-enabled: false, expiry frees no space either."
    return [wrong(Part.STORAGE, f"the doctor's own probe is still in the store, though {why}", advice)]


def _allowed(steps: Sequence[str], path: str, warehouse: str | None) -> str:
    """The actions of a policy, or the rights of a user, that these steps need; on the warehouse where the path is."""
    if warehouse and "/" in warehouse and path.startswith(warehouse):
        root = warehouse.rstrip("/")
    else:
        root = path.rpartition("/data/")[0] or path
    url = urlsplit(root)
    if not url.scheme.startswith("s3"):
        return f"icekeeper's user to read and write below {url.path}"
    objects = " and ".join(dict.fromkeys(_ACTIONS[step] for step in steps if step != "look"))
    below = f"arn:aws:s3:::{url.netloc}{url.path}"
    wanted = [f"{objects} on {below}/*"] if objects else []
    if "look" in steps:
        wanted.append(f"{_ACTIONS['look']} on arn:aws:s3:::{url.netloc}")
    return " and ".join(wanted)
