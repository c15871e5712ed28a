"""Nights on platforms that lack a system, or reach one in another way, each by its section of docs/own-platform.md."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.servers.process import free_ports
from icekeeper.sandbox.servers.s3 import REGION
from tests.platforms.lakes import (
    COMMITS,
    TABLE,
    Content,
    audited_day,
    fill_sqlite,
    insert,
    offload_into,
    orders,
    read_sqlite,
    write,
)
from tests.platforms.nights import TOKEN, Daemon, Site, block, filled, fresh_name, hours_away, judge
from tests.platforms.servers import HOST, Certificate, nginx

# A night takes half a minute where the processors have nothing else to do.
pytestmark = [pytest.mark.platforms, pytest.mark.timeout(900)]


def test_no_clickhouse(box: Sandbox, tmp_path: Path) -> None:
    """On a JDBC catalog in PostgreSQL, and S3."""
    site, name = Site(box, tmp_path), fresh_name()
    box.postgres.create_database(name)
    login = f"{box.postgres.user}:{box.postgres.password}@{box.postgres.host}:{box.postgres.port}"
    catalog = SqlCatalog(
        "lake",
        uri=f"postgresql+psycopg2://{login}/{name}",
        warehouse=f"s3://{box.s3.bucket}/{name}",
        **{
            "s3.endpoint": box.s3.endpoint,
            "s3.access-key-id": box.s3.access_key,
            "s3.secret-access-key": box.s3.secret_key,
            "s3.region": REGION,
        },
    )
    before = Content.of(write(catalog, audited_day()))
    uri = f"jdbc:postgresql://{box.postgres.host}:{box.postgres.port}/{name}"
    site.configure(
        "Without ClickHouse",
        {
            "jdbc:postgresql://postgres.example.com:5432/iceberg": uri,
            "s3://lake/warehouse": f"s3://{box.s3.bucket}/{name}",
            "/etc/icekeeper/secrets/catalog": site.secret("catalog", box.postgres.password),
            "https://s3.example.com": box.s3.endpoint,
            "/etc/icekeeper/secrets/s3-id": site.secret("s3-id", box.s3.access_key),
            "/etc/icekeeper/secrets/s3-key": site.secret("s3-key", box.s3.secret_key),
            **site.postgres(),
        },
    )

    night = site.night()

    judge(site, night, before, Content.of(catalog.load_table(TABLE)), audited=None)
    catalog.close()


def test_no_postgres(box: Sandbox, tmp_path: Path) -> None:
    """The ledger is the embedded PostgreSQL, which each command starts and stops."""
    site, database, day = Site(box, tmp_path), fresh_name(), audited_day()
    before = fill_sqlite(tmp_path, day)
    offload_into(box, database, day)
    site.configure("Without PostgreSQL", {"/srv/lake": tmp_path, **site.clickhouse(database)})

    night = site.night()

    judge(site, night, before, read_sqlite(tmp_path), audited=day)
    assert (tmp_path / "state" / "ledger").is_dir()


def test_neither(box: Sandbox, tmp_path: Path) -> None:
    """A catalog and a table, in six lines."""
    site = Site(box, tmp_path)
    before = fill_sqlite(tmp_path, audited_day())
    assert block("With neither: six lines").count("\n") == 6
    site.configure("With neither: six lines", {"/srv/lake": tmp_path})

    night = site.night()

    judge(site, night, before, read_sqlite(tmp_path), audited=None)
    checks = site.command("doctor")["checks"]
    assert [check for check in checks if check["level"] == "error"] == []


def test_renamed_columns_and_a_filter_over_two_source_tables(box: Sandbox, tmp_path: Path) -> None:
    """ClickHouse has the orders of shops and of the web apart, by other names, with some that were deleted."""
    site, database, day = Site(box, tmp_path), fresh_name(), audited_day()
    before = fill_sqlite(tmp_path, day)
    box.clickhouse.execute(f"CREATE DATABASE {database}")
    rows = pa.concat_tables([orders(day, commit) for commit in range(COMMITS)])
    rows = rows.rename_columns(["order_no", "customer", "total", "ordered"])
    for number, source in enumerate(("orders_web", "orders_shops")):
        box.clickhouse.execute(
            f"CREATE TABLE {source} (order_no Int64, customer Nullable(String), total Decimal(10, 2), "
            "ordered DateTime64(6, 'UTC'), is_deleted UInt8) ENGINE = MergeTree ORDER BY order_no",
            database=database,
        )
        here = rows.slice(number * rows.num_rows // 2, rows.num_rows // 2)
        for deleted, part in ((0, here), (1, here.slice(0, 3))):
            flag = pa.array([deleted] * part.num_rows, pa.uint8())
            insert(box, database, source, part.append_column("is_deleted", flag))
    site.configure(
        "Sources that are called otherwise", {"/srv/lake": tmp_path, **site.clickhouse(database), **site.postgres()}
    )

    night = site.night()

    judge(site, night, before, read_sqlite(tmp_path), audited=day)
    (audit,) = night["audits"]
    compared = audit["key_comparison"]
    assert compared is not None
    assert (compared["missing"], compared["extra"], compared["changed"]) == (0, 0, 0), compared
    assert site.command("certified", TABLE, f"{day}", "--by", "keys")["certified"]


def test_a_sub_path_behind_a_proxy_with_the_certificate_of_a_private_authority(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page below /icekeeper/ and ClickHouse below /clickhouse/ of one nginx."""
    now = datetime.now(UTC)
    site, database, day = Site(box, tmp_path), fresh_name(), now.date() - timedelta(days=1)
    before = fill_sqlite(tmp_path, day)
    offload_into(box, database, day)
    port, own = free_ports(2)
    section, base = "Behind a proxy, below a path", f"https://{HOST}:{port}"
    site.configure(
        section,
        {
            "https://intranet.example.com": base,
            "/srv/lake": tmp_path,
            "127.0.0.1:9420": f"127.0.0.1:{own}",
            "database: shop": f"database: {database}",
            "user: reader": f"user: {box.clickhouse.user}",
            "/etc/icekeeper/secrets/clickhouse": site.secret("clickhouse", box.clickhouse.password),
            "/etc/icekeeper/secrets/http-token": site.secret("http-token", TOKEN),
            **site.postgres(),
        },
        schedule=hours_away(),
    )
    certificate = Certificate.make(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
    sites = filled(
        block(section, "nginx"),
        {
            "listen 443 ssl": f"listen {port} ssl",
            "intranet.example.com": HOST,
            "/etc/nginx/intranet.pem": certificate.file,
            "/etc/nginx/intranet.key": certificate.key,
            "127.0.0.1:9420": f"127.0.0.1:{own}",
            "http://clickhouse.example.com:8123": box.clickhouse.url,
        },
    )
    with nginx(sites), site.daemon():
        proxied = Daemon(f"{base}/icekeeper", certificate.client())
        night = proxied.night(now)
        judge(site, night, before, read_sqlite(tmp_path), audited=day)
        page = proxied.page(f"/runs/{night['run_id']}")
    assert TABLE in page
    links = re.findall(r'(?:href|src|action)="(/[^"]*)"', page)
    assert links
    assert [link for link in links if not link.startswith("/icekeeper/")] == []
