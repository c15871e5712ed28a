"""A Hadoop catalog in a local directory, as a world's catalog. The other kinds are in catalogs.py."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.serializers import FromInputFile
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import update_table_metadata

from icekeeper.sandbox.catalogs import LakeCatalog, empty_table
from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.table_shapes import NAMESPACE, TableShape
from icekeeper.sandbox.table_writer import Put, updates_for


class HadoopCatalog(LakeCatalog):
    """A Hadoop catalog in a local directory: `metadata/v<N>.metadata.json` beside a version hint, no server at all."""

    def __init__(self, name: str, warehouse: Path) -> None:
        self.name = name
        self._path = warehouse

    def settings(self) -> dict[str, Any]:
        return {"name": self.name, "type": "hadoop", "warehouse": f"file://{self._path}", "properties": {}}

    def uploads(self) -> AbstractContextManager[Put]:
        return nullcontext(self._put)

    def _put(self, uri: str, body: bytes) -> None:
        path = Path(uri.removeprefix("file://"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def _metadata_folder(self, shape: TableShape) -> Path:
        return self._path.joinpath(*shape.identifier, "metadata")

    def begin(self, shape: TableShape, created_ms: int) -> TableMetadata:
        return empty_table(shape, f"file://{self._metadata_folder(shape).parent}", created_ms)

    def finish(self, shape: TableShape, metadata: TableMetadata, snapshots: Sequence[Snapshot]) -> None:
        full = update_table_metadata(metadata, updates_for(snapshots)) if snapshots else metadata
        self._publish(shape, len(snapshots) + 1, full)

    def _publish(self, shape: TableShape, version: int, metadata: TableMetadata) -> None:
        folder = self._metadata_folder(shape)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{uuid.uuid4()}.metadata.json"
        draft.write_text(metadata.model_dump_json())
        try:
            # Unlike Iceberg's own check-then-rename this can't overwrite another process's commit.
            os.link(draft, folder / f"v{version}.metadata.json")
        except FileExistsError as error:
            raise CommitFailedException(f"{shape.iceberg}: version {version} exists already") from error
        finally:
            draft.unlink()
        hint = folder / f"{uuid.uuid4()}.hint"
        hint.write_text(str(version))
        hint.replace(folder / "version-hint.text")

    def _version(self, shape: TableShape) -> int:
        folder = self._metadata_folder(shape)
        found = [int(path.name[1:].partition(".")[0]) for path in folder.glob("v*.metadata.json")]
        if not found:
            raise SandboxError(f"{shape.iceberg} is not in the Hadoop catalog at {self._path}")
        return max(found)

    def load(self, shape: TableShape) -> tuple[TableMetadata, FileIO]:
        metadata, _ = self._load_version(shape)
        return metadata, PyArrowFileIO()

    def _load_version(self, shape: TableShape) -> tuple[TableMetadata, int]:
        version = self._version(shape)
        path = self._metadata_folder(shape) / f"v{version}.metadata.json"
        return FromInputFile.table_metadata(PyArrowFileIO().new_input(f"file://{path}")), version

    def commit(self, shape: TableShape, base: TableMetadata, snapshot: Snapshot) -> None:
        current, version = self._load_version(shape)
        if current.current_snapshot_id != base.current_snapshot_id:
            raise CommitFailedException(f"{shape.iceberg} has moved on to version {version}")
        self._publish(shape, version + 1, update_table_metadata(current, updates_for([snapshot])))

    def restamp(self, shape: TableShape, at: datetime) -> None:
        """Publishes the table once more, with `at` for the time of every commit that is younger.

        Iceberg stamps its commits with the wall clock, which is not a world's.
        """
        current, version = self._load_version(shape)
        limit = int(at.timestamp() * 1000)
        document = current.model_dump(mode="json", by_alias=True)
        younger = [each for each in document["snapshots"] if each["timestamp-ms"] > limit]
        for place, each in enumerate(younger, start=1 - len(younger)):
            each["timestamp-ms"] = limit + place
        moments = {each["snapshot-id"]: each["timestamp-ms"] for each in document["snapshots"]}
        for each in document["snapshot-log"]:
            each["timestamp-ms"] = moments.get(each["snapshot-id"], min(each["timestamp-ms"], limit))
        for each in document["metadata-log"]:
            each["timestamp-ms"] = min(each["timestamp-ms"], limit)
        document["last-updated-ms"] = limit
        self._publish(shape, version + 1, TableMetadataUtil.parse_obj(document))

    def close(self) -> None:
        pass  # a directory has no connections

    def pyiceberg(self) -> Catalog:
        """A catalog in memory that knows each table's newest version; it doesn't follow later commits."""
        catalog = SqlCatalog(self.name, uri="sqlite:///:memory:", warehouse=f"file://{self._path}")
        catalog.create_namespace(NAMESPACE)
        for folder in sorted((self._path / NAMESPACE).glob("*")):
            versions = sorted(
                folder.glob("metadata/v*.metadata.json"), key=lambda path: int(path.name[1:].split(".")[0])
            )
            catalog.register_table((NAMESPACE, folder.name), f"file://{versions[-1]}")
        return catalog
