"""Why a table's files are not where they are expected: metadata that is missing, or a warehouse that has moved.

It reads the store, after a call on a table has failed; what the reasons mean is in the core.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors.exceptions.captured import CapturedException

from icekeeper.adapters.iceberg.catalog import quoted_name
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.spark.errors import translate
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason

_EXPLAINED = frozenset({Reason.TABLE_NOT_FOUND, Reason.METADATA_MISSING, Reason.FILE_MISSING})
_DEFAULT_IO = "org.apache.iceberg.hadoop.HadoopFileIO"
_HINT = "version-hint.text"
_HINT_BYTES = 20
_VERSION = re.compile(r"/v(\d+)\.(?:gz\.)?metadata\.json")
_PATH = re.compile(r"(?:\b[a-z][a-z0-9]+:)?/[^\s'\"<>|,;()]+\.(?:json|avro|parquet|orc|puffin|stats)\b")


@contextmanager
def explained(jvm: IcebergJvm, catalog: str, table: str | None) -> Iterator[None]:
    """Work on a table, if on one: a failure that comes from where its files are is raised with that reason."""
    try:
        yield
    except (Py4JJavaError, CapturedException) as exc:
        found = None if table is None else misplacement(jvm, catalog, table, exc)
        if found is None:
            raise
        raise found from exc


def misplacement(jvm: IcebergJvm, catalog: str, table: str, error: BaseException) -> PermanentError | None:
    """What a failed call on a table means by where its files are; None where that explains nothing."""
    known = translate(error)
    if known.reason not in _EXPLAINED:
        return None
    properties = _properties(jvm, catalog)
    warehouse = properties.get("warehouse")
    try:
        if known.reason is not Reason.FILE_MISSING and warehouse and properties.get("type") == "hadoop":
            return _without_metadata(jvm, table, f"{warehouse.rstrip('/')}/{table.replace('.', '/')}/metadata")
        named = _PATH.search(str(known))
        if named is None:
            return None
        if known.reason is Reason.METADATA_MISSING:
            # No table to ask: the catalog's entry names a file that is not there.
            location, opened = "", f"{warehouse}/{table.replace('.', '/')}" if warehouse else ""
            own_directory = False
            files = jvm.file_io(properties.get("io-impl", _DEFAULT_IO), properties)
        else:
            handle = jvm.load(quoted_name(catalog, table))
            files, metadata = handle.io(), handle.operations().current()
            location = str(metadata.location())
            opened = str(metadata.metadataFileLocation()).rpartition("/metadata/")[0]
            own_directory = metadata.property("write.metadata.path", None) is not None
        counterpart = counterpart_of(named[0], table, location, opened)
        if counterpart is None:
            return None
        # With a directory of its own the metadata says nothing about where the table's files are.
        elsewhere = bool(location) and plain(location) != plain(opened) and not own_directory
        if not elsewhere and not files.newInputFile(counterpart).exists():
            return None
    except Py4JError:
        return None  # the first error says more than one of looking for its cause
    text = f"the metadata names {named[0]}, where nothing is; the catalog opens {opened}"
    return PermanentError(text, reason=Reason.WAREHOUSE_MOVED, where=table)


def counterpart_of(named: str, table: str, location: str, opened: str) -> str | None:
    """Where a file that is missing would be if the table's directory had moved from `location` to `opened`.

    `location` as the metadata has it, empty where that is not known. None where the file belongs to `opened` as it is,
    or to another directory altogether.
    """
    if not opened or plain(named).startswith(f"{plain(opened)}/"):
        return None
    if location and plain(named).startswith(f"{plain(location)}/"):
        return f"{opened.rstrip('/')}{plain(named).removeprefix(plain(location))}"
    _, found, rest = plain(named).rpartition(f"/{table.replace('.', '/')}/")
    return f"{opened.rstrip('/')}/{rest}" if found else None


def plain(uri: str) -> str:
    """A path or URI such that two of the same place are equal: `file:` or no scheme, s3 or s3a, slashes."""
    text = re.sub(r"^s3[an]:", "s3:", uri)
    text = re.sub(r"^file:/*", "/", text)
    return re.sub(r"(?<![:/])/{2,}", "/", text).rstrip("/")


def _without_metadata(jvm: IcebergJvm, table: str, folder: str) -> PermanentError | None:
    """What a Hadoop catalog's directory of a table holds instead of the version that its hint names."""
    java: Any = jvm.spark._jvm
    path = java.org.apache.hadoop.fs.Path(f"{folder}/{_HINT}")
    files = path.getFileSystem(jvm.hadoop_conf())
    if not files.exists(path):
        return None
    statuses = files.globStatus(java.org.apache.hadoop.fs.Path(f"{folder}/v*.metadata.json"))
    found = (_VERSION.search(str(status.getPath())) for status in statuses)
    versions = sorted(int(version[1]) for version in found if version is not None)
    hint = _first_line(files, path)
    if hint in map(str, versions):  # it was written meanwhile
        return None
    held = f"its versions are {versions[0]} to {versions[-1]}" if versions else "there is no metadata file at all"
    text = f"{folder}/{_HINT} names version {hint}, which is not there; {held}"
    return PermanentError(text, reason=Reason.METADATA_MISSING, where=table)


def _first_line(files: Any, path: Any) -> str:
    stream = files.open(path)
    try:
        codes = [stream.read() for _ in range(min(_HINT_BYTES, int(files.getFileStatus(path).getLen())))]
    finally:
        stream.close()
    text = bytes(code for code in codes if code >= 0).decode(errors="replace").strip()
    return text.splitlines()[0] if text else "nothing"


def _properties(jvm: IcebergJvm, catalog: str) -> Mapping[str, str]:
    """The catalog's properties, as the session knows them."""
    prefix = f"spark.sql.catalog.{catalog}."
    known = jvm.spark.conf.getAll
    return {key.removeprefix(prefix): value for key, value in known.items() if key.startswith(prefix)}
