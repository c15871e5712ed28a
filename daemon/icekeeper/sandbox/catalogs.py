"""A world's Iceberg catalog, JDBC or REST: registering and committing tables, and icekeeper's settings for it.

The third kind: hadoop_catalog.py. Data files are written by table_writer.py.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io import FileIO
from pyiceberg.table.metadata import TableMetadata, new_table_metadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import AssertRefSnapshotId, update_table_metadata

from icekeeper.sandbox.servers.postgres import Postgres
from icekeeper.sandbox.servers.s3 import REGION, S3
from icekeeper.sandbox.table_shapes import NAMESPACE, TableShape
from icekeeper.sandbox.table_writer import Put, updates_for


class LakeCatalog(ABC):
    """A world's catalog.

    A table is created in two steps, so that its whole past can be written in between: `begin` gives the metadata of
    the empty table, `finish` registers it with all its snapshots. `commit` adds one snapshot to a registered table.
    """

    name: str

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The document below icekeeper's settings key `catalog`."""

    @abstractmethod
    def uploads(self) -> AbstractContextManager[Put]:
        """Gives a function that stores one object of a table; all are stored when the block ends."""

    @abstractmethod
    def begin(self, shape: TableShape, created_ms: int) -> TableMetadata:
        """The metadata of the empty table."""

    @abstractmethod
    def finish(self, shape: TableShape, metadata: TableMetadata, snapshots: Sequence[Snapshot]) -> None:
        """Registers the table with these snapshots."""

    @abstractmethod
    def load(self, shape: TableShape) -> tuple[TableMetadata, FileIO]:
        """The table's current metadata, and the FileIO that reads its files."""

    @abstractmethod
    def commit(self, shape: TableShape, base: TableMetadata, snapshot: Snapshot) -> None:
        """Adds one snapshot on top of `base`; raises CommitFailedException if another commit came first."""

    @abstractmethod
    def pyiceberg(self) -> Catalog:
        """The catalog in pyiceberg, for reading tables."""

    @abstractmethod
    def close(self) -> None:
        """Closes connections. Nothing is removed."""


def empty_table(shape: TableShape, location: str, created_ms: int) -> TableMetadata:
    metadata = new_table_metadata(
        schema=shape.schema,
        partition_spec=shape.partition,
        sort_order=UNSORTED_SORT_ORDER,
        location=location,
        properties=dict(shape.properties),
    )
    return metadata.model_copy(update={"last_updated_ms": created_ms})


def _s3_properties(s3: S3) -> dict[str, str]:
    return {
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "s3.endpoint": s3.endpoint,
        "s3.path-style-access": "true",
        "s3.access-key-id": s3.access_key,
        "s3.secret-access-key": s3.secret_key,
        "client.region": REGION,
    }


def _pyiceberg_s3(s3: S3) -> dict[str, str]:
    return {
        "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
        "s3.endpoint": s3.endpoint,
        "s3.access-key-id": s3.access_key,
        "s3.secret-access-key": s3.secret_key,
        "s3.region": REGION,
    }


class _PyIcebergCatalog(LakeCatalog):
    """What JDBC and REST share: commits through pyiceberg, files on S3."""

    def __init__(self, name: str, s3: S3) -> None:
        self.name = name
        self._s3 = s3
        self._catalog: Catalog | None = None

    @abstractmethod
    def _connect(self) -> Catalog: ...

    def uploads(self) -> AbstractContextManager[Put]:
        return self._s3.uploads()

    def pyiceberg(self) -> Catalog:
        if self._catalog is None:
            self._catalog = self._connect()
            self._catalog.create_namespace_if_not_exists(NAMESPACE)
        return self._catalog

    def load(self, shape: TableShape) -> tuple[TableMetadata, FileIO]:
        table = self.pyiceberg().load_table(shape.identifier)
        return table.metadata, table.io

    def close(self) -> None:
        if isinstance(self._catalog, SqlCatalog):
            self._catalog.engine.dispose()
        self._catalog = None

    def commit(self, shape: TableShape, base: TableMetadata, snapshot: Snapshot) -> None:
        catalog = self.pyiceberg()
        expected: dict[str, Any] = {"ref": "main", "snapshot-id": base.current_snapshot_id}
        unmoved = AssertRefSnapshotId(**expected)
        catalog.commit_table(catalog.load_table(shape.identifier), (unmoved,), updates_for([snapshot]))


class JdbcCatalog(_PyIcebergCatalog):
    """A JDBC catalog in a PostgreSQL database, files on S3. pyiceberg writes it, Spark opens it by the same name."""

    def __init__(self, name: str, s3: S3, postgres: Postgres, database: str) -> None:
        super().__init__(name, s3)
        self._postgres = postgres
        self._database = database

    @property
    def _warehouse(self) -> str:
        return f"s3://{self._s3.bucket}/{self.name}"

    def settings(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": "jdbc",
            "uri": f"jdbc:postgresql://{self._postgres.host}:{self._postgres.port}/{self._database}",
            "warehouse": self._warehouse,
            "properties": {
                "jdbc.user": self._postgres.user,
                "jdbc.password": self._postgres.password,
                "jdbc.schema-version": "V1",
                **_s3_properties(self._s3),
            },
        }

    def _connect(self) -> SqlCatalog:
        server = self._postgres
        return SqlCatalog(
            self.name,
            uri=f"postgresql+psycopg2://{server.user}:{server.password}@{server.host}:{server.port}/{self._database}",
            warehouse=self._warehouse,
            # Tests stop PostgreSQL and start it again.
            pool_pre_ping="true",
            **_pyiceberg_s3(self._s3),
        )

    def begin(self, shape: TableShape, created_ms: int) -> TableMetadata:
        return empty_table(shape, f"{self._warehouse}/{'/'.join(shape.identifier)}", created_ms)

    def finish(self, shape: TableShape, metadata: TableMetadata, snapshots: Sequence[Snapshot]) -> None:
        full = update_table_metadata(metadata, updates_for(snapshots)) if snapshots else metadata
        location = f"{full.location}/metadata/{len(snapshots):05d}-{uuid.uuid4()}.metadata.json"
        with self.uploads() as put:
            put(location, full.model_dump_json().encode())
        self.pyiceberg().register_table(shape.identifier, location)


class RestLakeCatalog(_PyIcebergCatalog):
    """SeaweedFS's REST catalog, a table bucket per world. It stamps commits itself, so that tables have no past."""

    def __init__(self, name: str, s3: S3, table_bucket: str) -> None:
        super().__init__(name, s3)
        self._warehouse = f"s3://{table_bucket}"

    def _login(self) -> dict[str, str]:
        return {
            "credential": f"{self._s3.access_key}:{self._s3.secret_key}",
            "oauth2-server-uri": f"{self._s3.rest_uri}/v1/oauth/tokens",
        }

    def settings(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": "rest",
            "uri": self._s3.rest_uri,
            "warehouse": self._warehouse,
            "properties": {**self._login(), **_s3_properties(self._s3)},
        }

    def _connect(self) -> RestCatalog:
        return RestCatalog(
            self.name,
            uri=self._s3.rest_uri,
            warehouse=self._warehouse,
            **self._login(),
            **_pyiceberg_s3(self._s3),
        )

    def begin(self, shape: TableShape, created_ms: int) -> TableMetadata:
        table = self.pyiceberg().create_table(
            shape.identifier, shape.schema, partition_spec=shape.partition, properties=dict(shape.properties)
        )
        return table.metadata

    def finish(self, shape: TableShape, metadata: TableMetadata, snapshots: Sequence[Snapshot]) -> None:
        catalog = self.pyiceberg()
        if snapshots:
            catalog.commit_table(catalog.load_table(shape.identifier), (), updates_for(snapshots))
