"""Which Maven packages a catalog needs, in which versions: Iceberg's runtime, a JDBC driver, a cloud's client."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

# Tested together: Spark 4.1 has an Iceberg runtime from 1.11 on.
ICEBERG, HADOOP = "1.12.0", "3.4.2"
_DRIVERS = {
    "postgresql": "org.postgresql:postgresql:42.7.13",
    "mysql": "com.mysql:mysql-connector-j:9.5.0",
    "mariadb": "org.mariadb.jdbc:mariadb-java-client:3.5.7",
    "sqlite": "org.xerial:sqlite-jdbc:3.51.2.0",
    "sqlserver": "com.microsoft.sqlserver:mssql-jdbc:13.2.1.jre11",
    "h2": "com.h2database:h2:2.4.240",
    "hsqldb": "org.hsqldb:hsqldb:2.7.4",
    "duckdb": "org.duckdb:duckdb_jdbc:1.4.4.0",
}
_RUNTIME = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13"
_AWS, _GCP, _AZURE = (f"org.apache.iceberg:iceberg-{cloud}-bundle" for cloud in ("aws", "gcp", "azure"))
_HADOOP_AWS, _HADOOP_AZURE = "org.apache.hadoop:hadoop-aws", "org.apache.hadoop:hadoop-azure"
# The jar of a class by its package. Iceberg's runtime has the FileIOs of all clouds, but not the clients they need.
_CLASSES = {
    "org.apache.iceberg.aws.": _AWS,
    "org.apache.iceberg.gcp.": _GCP,
    "org.apache.iceberg.azure.": _AZURE,
    "org.apache.iceberg.spark.": _RUNTIME,
    "software.amazon.": _AWS,
    **dict.fromkeys(("com.google.api.", "com.google.auth.", "com.google.cloud."), _GCP),
    "com.azure.": _AZURE,
    "com.microsoft.aad.": _AZURE,
    "org.apache.hadoop.fs.s3a.": _HADOOP_AWS,
    "org.apache.hadoop.fs.azurebfs.": _HADOOP_AZURE,
}
# The FileIO of a scheme for which Hadoop has none, and the jar that it needs.
_FILE_IO = {
    "s3": ("org.apache.iceberg.aws.s3.S3FileIO", _AWS),
    "gs": ("org.apache.iceberg.gcp.gcs.GCSFileIO", _GCP),
    "abfs": ("org.apache.iceberg.azure.adlsv2.ADLSFileIO", _AZURE),
    "abfss": ("org.apache.iceberg.azure.adlsv2.ADLSFileIO", _AZURE),
}
# What a FileIO by scheme needs, and what instead where there is none before Hadoop's file systems.
_CLIENTS = {
    **{scheme: artifact for scheme, (_, artifact) in _FILE_IO.items()},
    **dict.fromkeys(("s3a", "arn"), _AWS),
    **dict.fromkeys(("wasb", "wasbs"), _AZURE),
}
_HADOOP_CLIENTS = {"s3a": _HADOOP_AWS, "wasb": _HADOOP_AZURE, "wasbs": _HADOOP_AZURE}
_HADOOP_IO, _RESOLVING_IO = "org.apache.iceberg.hadoop.HadoopFileIO", "org.apache.iceberg.io.ResolvingFileIO"
_LOCAL = ("file", "hdfs")
# Properties that tell which store a REST catalog is on.
_STORES = {"s3.": _AWS, "gcs.": _GCP, "adls.": _AZURE}


def packages_for(type: str, uri: str | None, warehouse: str | None, properties: Mapping[str, str]) -> tuple[str, ...]:
    """The coordinates of what a session needs for a catalog, by its settings; first Iceberg's runtime.

    A cloud's client is among them where a class among the properties needs it (io-impl, catalog-impl, ...), or where
    the warehouse is. A REST catalog may keep to itself where that is: without a hint it is taken for S3.
    """
    needed = [_RUNTIME, *filter(None, map(_artifact_of, properties.values()))]
    if type == "glue":
        needed.append(_AWS)
    io, scheme = properties.get("io-impl"), urlsplit(warehouse or "").scheme
    if io == _RESOLVING_IO or (io is None and type == "rest"):
        stores = [artifact for begin, artifact in _STORES.items() if any(key.startswith(begin) for key in properties)]
        is_local = scheme in _LOCAL or (warehouse or "").startswith("/")
        needed += [] if is_local else [_CLIENTS[scheme]] if scheme in _CLIENTS else stores or [_AWS]
    elif io == _HADOOP_IO or (io is None and type != "glue"):
        needed += filter(None, [{**_CLIENTS, **_HADOOP_CLIENTS}.get(scheme)])
    coordinates = [_coordinate(artifact, ()) for artifact in needed]
    return tuple(dict.fromkeys([*coordinates, *filter(None, [driver_of(uri or "")])]))


def driver_of(uri: str) -> str | None:
    """The coordinate of the driver for a JDBC URI; None where it is not known."""
    found = re.match(r"jdbc:(\w+):", uri)
    return _DRIVERS.get(found[1]) if found is not None else None


def package_of(class_name: str, packages: Iterable[str] = ()) -> str | None:
    """The coordinate of the jar that has a class. Iceberg's are of the version that `packages` have."""
    artifact = _artifact_of(class_name)
    return None if artifact is None else _coordinate(artifact, packages)


def file_io_of(scheme: str, packages: Iterable[str] = ()) -> tuple[str, str] | None:
    """The FileIO for paths of a scheme, and the coordinate of the jar that it needs."""
    if scheme not in _FILE_IO:
        return None
    io, artifact = _FILE_IO[scheme]
    return io, _coordinate(artifact, packages)


def _artifact_of(class_name: str) -> str | None:
    return next((artifact for begin, artifact in _CLASSES.items() if class_name.startswith(begin)), None)


def _coordinate(artifact: str, packages: Iterable[str]) -> str:
    if artifact.startswith("org.apache.hadoop:"):
        return f"{artifact}:{HADOOP}"
    own = next((package for package in packages if package.startswith(f"{_RUNTIME}:")), f"{_RUNTIME}:{ICEBERG}")
    return f"{artifact}:{own.rpartition(':')[2]}"


IMAGE_PACKAGES = packages_for("jdbc", "jdbc:postgresql:", "s3:", {})
"""What lies in the container image (jars.sha256): for a catalog in PostgreSQL and a warehouse on S3."""
