"""The default jars: where they are searched, and that the list for the image names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from icekeeper.adapters.spark import jars
from icekeeper.adapters.spark.jars import maven_path
from icekeeper.core.catalogs.packages import IMAGE_PACKAGES
from icekeeper.execution.wiring import spark_options
from icekeeper.settings.model import Settings

ROOT = Path(__file__).parents[2]
NAMES = [maven_path(coordinate).rpartition("/")[2] for coordinate in IMAGE_PACKAGES]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the jars of the default, taken for the installation's."""
    for name in NAMES:
        (tmp_path / name).touch()
    monkeypatch.setattr("icekeeper.execution.wiring.JARS", tmp_path)
    return tmp_path


# A catalog in PostgreSQL and a warehouse on S3.
PLATFORM = {"type": "jdbc", "uri": "jdbc:postgresql://pg/iceberg", "warehouse": "s3://warehouse/k2"}
SQLITE = {"type": "jdbc", "uri": "jdbc:sqlite:/data/catalog.db"}
REST = {"type": "rest", "uri": "http://catalog:8181"}
HIVE = {"type": "hive", "uri": "thrift://metastore:9083"}
S3_IO, GCS_IO, HADOOP_IO, RESOLVING_IO = (
    f"org.apache.iceberg.{name}FileIO" for name in ("aws.s3.S3", "gcp.gcs.GCS", "hadoop.Hadoop", "io.Resolving")
)
AWS, GCP, AZURE = "iceberg-aws-bundle", "iceberg-gcp-bundle", "iceberg-azure-bundle"


def settings(catalog: Mapping[str, object] = PLATFORM, **spark: object) -> Settings:
    return Settings.model_validate(
        {
            "spark": spark,
            "catalog": {"name": "k2", **catalog},
            "postgres": {"dsn": "postgresql://icekeeper@postgres/icekeeper"},
            "tables": [{"name": "cold.t"}],
        }
    )


def test_jars_of_the_installation_are_taken_instead_of_fetching_any(home: Path) -> None:
    options = spark_options(settings())
    assert options.jars == tuple(str(home / name) for name in NAMES)
    assert options.packages == ()


def test_an_installation_without_all_of_them_has_them_fetched(home: Path) -> None:
    (home / NAMES[1]).unlink()
    options = spark_options(settings())
    assert (options.jars, options.packages) == ((), IMAGE_PACKAGES)


def test_what_the_settings_name_comes_before_what_is_there(home: Path) -> None:
    named = spark_options(settings(jars=["/jars/own.jar"]))
    assert (named.jars, named.packages) == (("/jars/own.jar",), ())
    fetched = spark_options(settings(packages=["a.b:c:1"]))
    assert (fetched.jars, fetched.packages) == ((), ("a.b:c:1",))
    nothing = spark_options(settings(packages=[]))
    assert (nothing.jars, nothing.packages) == ((), ())


def artifacts(catalog: Mapping[str, object], properties: Mapping[str, str]) -> list[str]:
    """What is fetched for a catalog beside Iceberg's runtime."""
    runtime, *others = spark_options(settings({**catalog, "properties": properties})).packages
    assert runtime == "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0"
    assert all(each.endswith(":1.12.0") for each in others if each.startswith("org.apache.iceberg:"))
    return [each.split(":")[1] for each in others]


@pytest.mark.parametrize(
    ("catalog", "properties", "needed"),
    [
        # The database of a JDBC catalog.
        (PLATFORM, {}, [AWS, "postgresql"]),
        (SQLITE | {"warehouse": "/data/warehouse"}, {}, ["sqlite-jdbc"]),
        (SQLITE | {"warehouse": "file:///data/warehouse"}, {"io-impl": HADOOP_IO}, ["sqlite-jdbc"]),
        (SQLITE | {"warehouse": "hdfs://name/data"}, {}, ["sqlite-jdbc"]),
        (PLATFORM | {"uri": "jdbc:mysql://db/lake"}, {"io-impl": S3_IO}, [AWS, "mysql-connector-j"]),
        (PLATFORM | {"uri": "jdbc:mariadb://db/lake"}, {"io-impl": S3_IO}, [AWS, "mariadb-java-client"]),
        (PLATFORM | {"uri": "jdbc:oracle:thin:@db/lake", "warehouse": "/data"}, {}, []),
        # The store of the warehouse, through the FileIO that is named, or is the catalog's own.
        (PLATFORM | {"warehouse": "gs://bucket/k2"}, {"io-impl": GCS_IO}, [GCP, "postgresql"]),
        (PLATFORM | {"warehouse": "gs://bucket/k2"}, {"io-impl": RESOLVING_IO}, [GCP, "postgresql"]),
        (PLATFORM | {"warehouse": "s3a://bucket/k2"}, {"io-impl": RESOLVING_IO}, [AWS, "postgresql"]),
        (PLATFORM | {"warehouse": "s3a://bucket/k2"}, {"io-impl": S3_IO}, [AWS, "postgresql"]),
        (PLATFORM | {"warehouse": "s3a://bucket/k2"}, {"io-impl": HADOOP_IO}, ["hadoop-aws", "postgresql"]),
        (PLATFORM | {"warehouse": "s3a://bucket/k2"}, {}, ["hadoop-aws", "postgresql"]),
        (PLATFORM | {"warehouse": "wasbs://c@a.blob.core.windows.net/k2"}, {}, ["hadoop-azure", "postgresql"]),
        (PLATFORM | {"warehouse": "s3://bucket/k2"}, {"io-impl": "com.example.TheirIO"}, ["postgresql"]),
        ({"type": "hadoop", "warehouse": "/data/warehouse"}, {}, []),
        ({"type": "hadoop", "warehouse": "hdfs://name/warehouse"}, {}, []),
        ({"type": "hadoop", "warehouse": "abfss://c@a.dfs.core.windows.net/k2"}, {}, [AZURE]),
        (HIVE, {}, []),
        (HIVE | {"warehouse": "s3://bucket/k2"}, {"io-impl": S3_IO}, [AWS]),
        ({"type": "glue"}, {}, [AWS]),
        ({"type": "glue", "warehouse": "s3://bucket/k2"}, {"io-impl": S3_IO}, [AWS]),
        # A REST catalog's warehouse may be a name, whose store the properties hint at.
        (REST, {}, [AWS]),
        (REST | {"warehouse": "prod"}, {"s3.endpoint": "http://minio:9000"}, [AWS]),
        (REST | {"warehouse": "prod"}, {"gcs.project-id": "p"}, [GCP]),
        (REST | {"warehouse": "prod"}, {"adls.sas-token.account": "x"}, [AZURE]),
        (REST | {"warehouse": "gs://bucket"}, {"s3.endpoint": "http://minio:9000"}, [GCP]),
        (REST | {"warehouse": "abfss://c@a.dfs.core.windows.net"}, {}, [AZURE]),
        (REST | {"warehouse": "arn:aws:s3tables:eu-west-1:1:bucket/b"}, {}, [AWS]),
        (REST | {"warehouse": "file:///data"}, {}, []),
        (REST | {"warehouse": "/data"}, {}, []),
        (REST | {"warehouse": "prod"}, {"io-impl": GCS_IO}, [GCP]),
        # Classes of a catalog.
        (
            {"type": "custom", "warehouse": "s3://bucket"},
            {"catalog-impl": "org.apache.iceberg.nessie.NessieCatalog", "io-impl": S3_IO},
            [AWS],
        ),
        (
            {"type": "custom", "warehouse": "s3://bucket"},
            {"catalog-impl": "org.apache.iceberg.aws.dynamodb.DynamoDbCatalog"},
            [AWS],
        ),
        (
            {"type": "custom", "warehouse": "gs://bucket"},
            {"catalog-impl": "org.apache.iceberg.gcp.bigquery.BigQueryMetastoreCatalog"},
            [GCP],
        ),
        (
            {"type": "custom", "uri": "jdbc:sqlite:/data/c.db", "warehouse": "/data"},
            {"catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog"},
            ["sqlite-jdbc"],
        ),
    ],
)
def test_packages_follow_the_catalog(
    catalog: Mapping[str, object], properties: Mapping[str, str], needed: list[str]
) -> None:
    assert artifacts(catalog, properties) == needed


def test_jars_of_the_installation_do_for_a_catalog_that_needs_fewer(home: Path) -> None:
    assert spark_options(settings({"type": "hadoop", "warehouse": "/data"})).jars == (str(home / NAMES[0]),)
    options = spark_options(settings(SQLITE | {"warehouse": "/data"}))
    assert (options.jars, len(options.packages)) == ((), 2)


def test_the_list_that_the_image_is_built_from_names_these_jars() -> None:
    listed = [line.split("  ", 1) for line in (ROOT / "jars.sha256").read_text().splitlines()]
    assert [path for _, path in listed] == [maven_path(coordinate) for coordinate in IMAGE_PACKAGES]
    assert all(len(sha256) == 64 for sha256, _ in listed)


@pytest.mark.parametrize("account", [True, False])
def test_spark_has_its_cache_in_the_accounts_home_as_java_sees_it(
    account: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getpwuid(uid: int) -> SimpleNamespace:
        if not account:
            raise KeyError(uid)
        return SimpleNamespace(pw_dir=str(tmp_path / "account"))

    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    monkeypatch.setenv("HOME", str(tmp_path / "set"))
    cache = tmp_path / ("account" if account else "set") / ".ivy2.5.2" / "jars"
    cache.mkdir(parents=True)
    assert jars.cached_jars(["a:b:1"], {}) is None
    (jar := cache / "a_b-1.jar").touch()
    assert jars.cached_jars(["a:b:1"], {}) == [jar]
    assert jars.in_ivy_cache([], {})
