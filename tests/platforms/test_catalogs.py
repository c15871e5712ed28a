"""Nights on the catalogs that users have, each configured by its section of docs/own-platform.md."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyiceberg.catalog.rest import RestCatalog

from icekeeper.adapters.spark.java import find_java
from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.servers.s3 import REGION
from tests.conftest import SHORT_LIVED
from tests.platforms.lakes import (
    NAME,
    NAMESPACE,
    TABLE,
    Content,
    audited_day,
    fill_sqlite,
    fill_warehouse,
    offload_into,
    read_sqlite,
    write,
)
from tests.platforms.nights import Site, block, filled, fresh_name, hours_away, judge
from tests.platforms.servers import TOKEN_LIFE_S, Certificate, MariaDb, door, mariadb
from tests.process.program import wait_for

# A night takes half a minute where the processors have nothing else to do.
pytestmark = [pytest.mark.platforms, pytest.mark.timeout(900)]


def test_rest_with_oauth2_whose_tokens_live_a_minute_and_the_certificate_of_a_private_authority(
    box: Sandbox, tmp_path: Path
) -> None:
    """SeaweedFS stamps commits itself: the daemon's clock is a month ahead, so that the table is a month old."""
    certificate = Certificate.make(tmp_path)
    ahead = datetime.now(UTC) + timedelta(days=30)
    site, name, day = Site(box, tmp_path), fresh_name(), ahead.date() - timedelta(days=1)
    box.s3.create_table_bucket(name)
    offload_into(box, name, day)
    keys = {
        "s3.endpoint": box.s3.endpoint,
        "s3.access-key-id": box.s3.access_key,
        "s3.secret-access-key": box.s3.secret_key,
        "s3.region": REGION,
    }
    login = {
        "credential": f"{box.s3.access_key}:{box.s3.secret_key}",
        "oauth2-server-uri": f"{box.s3.rest_uri}/v1/oauth/tokens",
    }
    own = RestCatalog("own", uri=box.s3.rest_uri, warehouse=f"s3://{name}", **login, **keys)
    before = Content.of(write(own, day, ago=timedelta(0)))
    with door(box.s3, certificate) as catalog:
        site.configure(
            "REST with OAuth2",
            {
                "https://catalog.example.com/api": catalog.uri,
                "warehouse: lake": f"warehouse: s3://{name}",
                "/etc/icekeeper/secrets/catalog": site.secret("catalog", f"{catalog.client}:{catalog.secret}"),
                "https://s3.example.com": box.s3.endpoint,
                "/etc/icekeeper/secrets/s3-id": site.secret("s3-id", box.s3.access_key),
                "/etc/icekeeper/secrets/s3-key": site.secret("s3-key", box.s3.secret_key),
                **site.clickhouse(name),
                **site.postgres(),
            },
            run={"max_clock_skew": "3650d"},
            schedule=hours_away(),
            spark=trusting(certificate, tmp_path),
        )
        with site.daemon(at=ahead) as daemon:
            wait_for("a plan", daemon.plan)
            first = next(iter(catalog.tokens))
            wait_for("the end of a token", lambda: catalog.tokens[first] < time.monotonic(), 2 * TOKEN_LIFE_S)
            night = daemon.night(ahead)
            judge(site, night, before, Content.of(own.load_table(TABLE)), audited=day)
    assert len(catalog.commits) == 2
    assert first not in catalog.commits
    assert "urn:ietf:params:oauth:grant-type:token-exchange" in catalog.grants


def trusting(certificate: Certificate, directory: Path) -> dict[str, Any]:
    """The page's way to have Java trust an authority."""
    java, section = find_java(os.environ, directory).home, "A private authority"
    commands = filled(
        block(section, "sh"),
        {"$JAVA_HOME": java, "/etc/icekeeper": directory, "internal-ca.pem": certificate.file},
    )
    environment = {**os.environ, "PATH": f"{java}/bin:{os.environ['PATH']}"}
    subprocess.run(["sh", "-ec", commands], check=True, capture_output=True, env=environment)
    settings: dict[str, Any] = yaml.safe_load(filled(block(section), {"/etc/icekeeper": directory}))["spark"]
    ((name, text),) = settings["conf"].items()
    return {"driver_memory": "1g", "conf": {name: f"{SHORT_LIVED[name]} {text}"}}


def test_a_catalog_in_sqlite(box: Sandbox, tmp_path: Path) -> None:
    site, database, day = Site(box, tmp_path), fresh_name(), audited_day()
    before = fill_sqlite(tmp_path, day)
    offload_into(box, database, day)
    site.configure("JDBC: SQLite", {"/srv/lake": tmp_path, **site.clickhouse(database), **site.postgres()})

    night = site.night()

    judge(site, night, before, read_sqlite(tmp_path), audited=day)


def test_a_catalog_in_mariadb(box: Sandbox, tmp_path: Path) -> None:
    site, database, day = Site(box, tmp_path), fresh_name(), audited_day()
    before, metadata = fill_warehouse(tmp_path, day)
    offload_into(box, database, day)
    with mariadb() as server:
        enter(server, metadata)
        site.configure(
            "JDBC: MariaDB or MySQL",
            {
                "mariadb.example.com:3306": f"127.0.0.1:{server.port}",
                "/srv/lake": tmp_path,
                "/etc/icekeeper/secrets/mariadb": site.secret("mariadb", server.password),
                **site.clickhouse(database),
                **site.postgres(),
            },
        )
        night = site.night()
        now = server.execute("SELECT metadata_location FROM iceberg_tables")
    assert now != f"file://{metadata}"
    judge(site, night, before, Content.at(now), audited=day)


def enter(server: MariaDb, metadata: Path) -> None:
    """The tables that Iceberg's JdbcCatalog makes (JdbcUtil, schema V1), and the row of ours."""
    name = "VARCHAR(255) NOT NULL"
    server.execute(
        f"""
        CREATE TABLE iceberg_tables (catalog_name {name}, table_namespace {name}, table_name {name},
            metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000), iceberg_type VARCHAR(5),
            PRIMARY KEY (catalog_name, table_namespace, table_name));
        CREATE TABLE iceberg_namespace_properties (catalog_name {name}, namespace {name}, property_key VARCHAR(255),
            property_value VARCHAR(1000), PRIMARY KEY (catalog_name, namespace, property_key));
        INSERT INTO iceberg_namespace_properties VALUES ('lake', '{NAMESPACE}', 'exists', 'true');
        INSERT INTO iceberg_tables VALUES ('lake', '{NAMESPACE}', '{NAME}', 'file://{metadata}', NULL, 'TABLE');
        """
    )


def test_a_warehouse_of_hadoops_in_a_local_directory(box: Sandbox, tmp_path: Path) -> None:
    site, database, day = Site(box, tmp_path), fresh_name(), audited_day()
    before, metadata = fill_warehouse(tmp_path, day)
    offload_into(box, database, day)
    metadata.rename(metadata.with_name("v1.metadata.json"))
    hint = metadata.with_name("version-hint.text")
    hint.write_text("1")
    site.configure("Hadoop: a directory", {"/srv/lake": tmp_path, **site.clickhouse(database), **site.postgres()})

    night = site.night()

    version = int(hint.read_text())
    assert version > 1
    judge(site, night, before, Content.at(metadata.with_name(f"v{version}.metadata.json")), audited=day)
