"""What `init` asks: how the catalog, its store, ClickHouse and the ledger are reached, as blocks of the settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from icekeeper.adapters.postgres.embedded import programs
from icekeeper.cli.setup.questions import Check, Questions, properties_of
from icekeeper.core.catalogs.packages import file_io_of
from icekeeper.settings.blocks import Block
from icekeeper.settings.first_file import FirstFile
from icekeeper.settings.model import Settings
from icekeeper.settings.systems import Catalog, ClickHouse, Postgres

KINDS = ("rest", "jdbc", "hadoop", "hive", "glue")
_URIS = {
    "rest": "The catalog's address, like https://catalog.example.com/api/catalog",
    "jdbc": "The database that holds the catalog, like jdbc:postgresql://host/database or jdbc:sqlite:/path/of/file",
    "hive": "The metastore's address, like thrift://metastore:9083",
}
_WAREHOUSES = {
    "rest": "The warehouse's name on that catalog (empty: it has one only)",
    "jdbc": "The warehouse, like s3://bucket/path or /a/directory",
    "hadoop": "The warehouse, like /a/directory, hdfs://namenode/path or s3a://bucket/path",
    "hive": "Where its tables are, like s3://bucket/path (empty: on HDFS)",
    "glue": "The warehouse, like s3://bucket/path (empty: each table's own place)",
}
_REQUIRED = {"jdbc", "hadoop"}
_SIGN_IN = ("none", "token", "oauth2")
_SQLITE = "jdbc:sqlite:"
_S3 = ("s3", "s3a", "s3n")
# Endpoint, path style, region, and the two keys: properties of Iceberg's client, and of Hadoop's.
_ICEBERGS_S3 = ("s3.endpoint", "s3.path-style-access", "client.region", "s3.access-key-id", "s3.secret-access-key")
_HADOOPS_S3 = tuple(
    f"hadoop.fs.s3a.{name}" for name in ("endpoint", "path.style.access", "endpoint.region", "access.key", "secret.key")
)
# An endpoint of one's own has no regions, and Amazon's SDK wants one.
_ANY_REGION = "us-east-1"
_STATE_DIR = Path(str(Settings.model_fields["state_dir"].default))


@dataclass(frozen=True, slots=True)
class Given:
    """What the options say; None: not given."""

    kind: str | None = None
    name: str | None = None
    uri: str | None = None
    warehouse: str | None = None
    properties: tuple[str, ...] = ()
    clickhouse: str | None = None
    clickhouse_database: str | None = None
    clickhouse_user: str | None = None
    clickhouse_password_file: Path | None = None
    postgres: str | None = None
    postgres_password_file: Path | None = None


def catalog_block(questions: Questions, given: Given) -> dict[str, Any]:
    """The block `catalog`."""
    asked = "What kind of catalog (Polaris, Nessie, Lakekeeper and the like: rest)"
    kind = questions.ask("--type", asked, given.kind, choices=KINDS)
    questions.require_all()
    properties = properties_of(given.properties)
    block: dict[str, Any] = {"name": "", "type": kind}

    def wrong(key: str) -> Check:
        return lambda answer: mistake_in(Catalog, {**block, key: answer}, key)

    part_of_key = " (part of every table's key: as its writers name it)" if kind == "jdbc" else ""
    block["name"] = questions.ask(
        "--name",
        f"The catalog's name{part_of_key}",
        given.name,
        check=wrong("name"),
        default=None if part_of_key else "lake",
    )
    if kind in _URIS:
        block["uri"] = questions.ask("--uri", _URIS[kind], given.uri, check=_uri(wrong("uri")))
    warehouse = questions.ask(
        "--warehouse",
        _WAREHOUSES[kind],
        given.warehouse,
        check=_no_s3_in_hadoop(kind),
        default=None if kind in _REQUIRED else "",
    )
    if warehouse:
        local = kind != "rest" and not urlsplit(warehouse).scheme
        block["warehouse"] = str(Path(warehouse).expanduser().absolute()) if local else warehouse
    questions.require_all()
    properties |= _sign_in(questions, kind, block.get("uri", ""), properties)
    properties |= _store(questions, kind, block.get("warehouse", ""), properties)
    if properties:
        block["properties"] = properties
    return block


def _sign_in(questions: Questions, kind: str, uri: str, properties: Mapping[str, str]) -> dict[str, str]:
    """The properties with which the catalog is opened."""
    if kind == "glue" and "client.region" not in properties:
        here = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        region = questions.ask("--property client.region", "AWS region", None, default=here)
        return {"client.region": region} if region else {}
    if kind == "jdbc" and not uri.startswith(_SQLITE) and "jdbc.password_file" not in properties:
        user = properties.get("jdbc.user") or questions.ask(
            "--property jdbc.user", "User of that database (empty: none)", None, default=""
        )
        return {"jdbc.user": user, **questions.secret("jdbc.password", f"Password of {user}")} if user else {}
    if kind != "rest" or any(
        name.startswith(("token", "credential", "rest.auth", "rest.sigv4")) for name in properties
    ):
        return {}
    way = questions.ask("", "How do clients sign in there", None, default="none", choices=_SIGN_IN)
    if way == "token":
        return questions.secret("token", "Bearer token")
    if way == "none":
        return {}
    found = questions.secret("credential", "Client id and secret, as ID:SECRET")
    server = questions.ask("", "Where tokens are issued (empty: by the catalog itself)", None, default="")
    scope = questions.ask("", "Scope (empty: catalog; Polaris wants PRINCIPAL_ROLE:ALL)", None, default="")
    return found | ({"oauth2-server-uri": server} if server else {}) | ({"scope": scope} if scope else {})


def _store(questions: Questions, kind: str, warehouse: str, properties: Mapping[str, str]) -> dict[str, str]:
    """The properties with which the tables' files are read."""
    scheme = urlsplit(warehouse).scheme
    found: dict[str, str] = {}
    if kind in ("jdbc", "hive") and "io-impl" not in properties:
        io = file_io_of("s3" if scheme in _S3 else scheme)
        found = {} if io is None else {"io-impl": io[0]}
    if scheme not in _S3 and (kind != "rest" or scheme or warehouse.startswith("/")):
        return found
    endpoint, style, region, key, secret = _HADOOPS_S3 if kind == "hadoop" else _ICEBERGS_S3
    whose = "as the catalog says, or AWS's" if kind == "rest" else "AWS's"
    if endpoint not in properties:
        url = questions.ask(
            f"--property {endpoint}", f"S3 endpoint, like http://minio:9000 (empty: {whose})", None, default=""
        )
        found |= {endpoint: url} if url else {}
    if endpoint in {**properties, **found}:
        found |= {name: value for name, value in {style: "true", region: _ANY_REGION}.items() if name not in properties}
    elif kind == "rest":
        return found  # a catalog that names the endpoint hands out keys, too, or the environment has them
    access = {} if f"{key}_file" in properties else questions.secret(key, "Access key id, where this host has no role")
    if f"{secret}_file" in properties or f"{key}_file" not in {**properties, **access}:
        return found | access
    return found | access | questions.secret(secret, "Secret access key")


def clickhouse_block(questions: Questions, given: Given) -> dict[str, Any] | None:
    """The block `clickhouse`; None where nothing is to be audited."""
    block: dict[str, Any] = {}

    def wrong(key: str) -> Check:
        return lambda answer: mistake_in(ClickHouse, {**block, key: answer}, key)

    question = "ClickHouse that the tables are offloaded from, like http://clickhouse:8123 (empty: no audits)"
    block["url"] = questions.ask("--clickhouse", question, given.clickhouse, check=wrong("url"), default="")
    if not block["url"]:
        return None
    block["database"] = questions.ask(
        "--clickhouse-database", "Its database", given.clickhouse_database, check=wrong("database"), default="default"
    )
    block["user"] = questions.ask("--clickhouse-user", "Its user", given.clickhouse_user, default="default")
    return block | _password(questions, "clickhouse", given.clickhouse_password_file, given.clickhouse is not None)


def postgres_block(questions: Questions, given: Given) -> dict[str, Any] | None:
    """The block `postgres`; None for an embedded one in state_dir, which needs the extra."""
    if given.postgres is None and programs.directory() is not None:
        return None
    question = "PostgreSQL for the ledger, like postgresql://icekeeper@host/icekeeper"
    dsn = questions.ask(
        "--postgres", question, given.postgres, check=lambda answer: mistake_in(Postgres, {"dsn": answer}, "dsn")
    )
    questions.require_all()
    return {"dsn": dsn, **_password(questions, "postgres", given.postgres_password_file, given.postgres is not None)}


def _password(questions: Questions, system: str, file: Path | None, by_options: bool) -> dict[str, str]:
    """A password_file. Where the system is given by options, so is its password."""
    if file is not None:
        return {"password_file": str(file.expanduser().absolute())}
    if by_options:
        return {}
    typed = questions.secret(f"{system}-password", "Its password")
    return {"password_file": typed[f"{system}-password_file"]} if typed else {}


def options_of(file: FirstFile, place: Path, typed: Collection[str] = ()) -> list[str]:
    """The same answers as options, for another try. `place`: the directory of the configuration; `typed`: the files of
    secrets that have not been written, and will be asked for again."""
    catalog = {"type": file.catalog["type"], **{key: file.catalog.get(key) for key in ("name", "uri", "warehouse")}}
    systems = {f"clickhouse-{key}".removesuffix("-url"): value for key, value in (file.clickhouse or {}).items()}
    systems |= {f"postgres-{key}".removesuffix("-dsn"): value for key, value in (file.postgres or {}).items()}
    options = {
        key.replace("_", "-"): value for key, value in {**catalog, **systems}.items() if value not in (None, *typed)
    }
    given = [(f"--{key}", _located(key, value, place)) for key, value in options.items()]
    given += [
        ("--property", f"{name}={_located(name, value, place)}")
        for name, value in file.catalog.get("properties", {}).items()
        if value not in typed
    ]
    return [text for option in given for text in option]


def _located(name: str, value: str, place: Path) -> str:
    return str(place / value) if name.endswith(("-file", "_file")) else value


def default_state_dir(environ: Mapping[str, str] = os.environ) -> str | None:
    """None: the settings' default, for root and for whoever may write there; else a directory of this user's."""
    if os.geteuid() == 0 or os.access(_STATE_DIR, os.W_OK):
        return None
    base = environ.get("XDG_STATE_HOME", "")
    return str((Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "icekeeper")


def mistake_in(block: type[Block], document: Mapping[str, Any], key: str) -> str | None:
    """What the settings have against a key of a block, whatever else is missing in it; None: nothing."""
    try:
        block(**document)
    except ValidationError as exc:
        found = (error["msg"] for error in exc.errors(include_url=False) if error["loc"][:1] == (key,))
        return next((message.removeprefix("Value error, ") for message in found), None)
    return None


def _uri(wrong: Check) -> Callable[[str], str | None]:
    def check(answer: str) -> str | None:
        path = Path(answer.removeprefix(_SQLITE).removeprefix("file:").partition("?")[0])
        if answer.startswith(_SQLITE) and not (path.is_absolute() and path.is_file()):
            # SQLite makes a file that is missing; a relative path would begin where the daemon is started.
            return (
                "there is no such file"
                if path.is_absolute()
                else f"the path has to begin with /, like {path.absolute()}"
            )
        return wrong(answer)

    return check


def _no_s3_in_hadoop(kind: str) -> Check:
    def check(answer: str) -> str | None:
        is_wrong = kind == "hadoop" and urlsplit(answer).scheme in ("s3", "s3n")
        return "Hadoop opens S3 by s3a://" if is_wrong else None

    return check
