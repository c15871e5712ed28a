"""Values as people write them: 10m, 7d, 128MiB, cold.trades, a cron line. What they mean for the night is not here."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS_B = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_LONGEST_S = 3650 * 86400
_DURATION = re.compile(r"(\d+)(s|m|h|d)")
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|TiB)")
_IDENTIFIER = re.compile(r"[^\s.`]+(\.[^\s.`]+)*")


def parse_duration(value: object) -> timedelta:
    """`30s`, `10m`, `12h`, `7d`, or several together (`1h30m`)."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if parts and "".join(number + unit for number, unit in parts) == value.strip():
            seconds = sum(int(number) * _UNITS_S[unit] for number, unit in parts)
            if not 1 <= seconds <= _LONGEST_S:
                raise ValueError("a duration is at least 1s and at most 3650d")
            return timedelta(seconds=seconds)
    raise ValueError("a duration is written like 30s, 10m, 12h, 7d or 1h30m")


def format_duration(value: timedelta) -> str:
    """The same duration in the largest unit that it is a whole number of."""
    seconds = round(value.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS_S[unit] == 0:
            return f"{seconds // _UNITS_S[unit]}{unit}"
    return f"{seconds}s"


def parse_size(value: object) -> int:
    """`128MiB`, `1GiB`; a bare number is refused, for nobody knows its unit."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = int(match.group(1)) * _UNITS_B[match.group(2)]
        if size < _UNITS_B["MiB"]:
            raise ValueError("a file size is at least 1MiB")
        return size
    raise ValueError("a size is written like 128MiB or 1GiB (B, KiB, MiB, GiB, TiB)")


def format_size(value: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % _UNITS_B[unit] == 0:
            return f"{value // _UNITS_B[unit]}{unit}"
    return f"{value}B"


def _identifier(value: str) -> str:
    if not _IDENTIFIER.fullmatch(value):
        raise ValueError("an identifier has no spaces, backticks or empty parts, like cold.silver_trades")
    return value


def _dsn(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        raise ValueError("a DSN is written like postgresql://user@host:5432/database")
    if parts.password is not None or "password=" in parts.query:
        raise ValueError("no password in it: that is password_file's business, or the environment's")
    _check_port(parts)
    return value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ValueError("an address is written like http://clickhouse:8123")
    if parts.username is not None:
        raise ValueError("no user or password in it: they have keys of their own")
    _check_port(parts)
    return value


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("an address to listen on is written like 127.0.0.1:9420")
    return value


def _check_port(parts: SplitResult) -> None:
    try:
        _ = parts.port
    except ValueError as exc:
        raise ValueError("its port has to be a number up to 65535") from exc


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("it has to be an absolute path")
    return value


def _not_yet(value: object) -> object:
    if value:
        raise ValueError("not available yet: leave it out")
    return value


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError) as exc:
        raise ValueError("a time zone is a name of the tz database, like UTC or Europe/Berlin") from exc
    return value


def _cron(value: str) -> str:
    fields = value.split()
    if len(fields) != 5:
        raise ValueError("a cron expression has five fields: minute hour day month weekday, like 0 2 * * *")
    if re.search(r"\d", fields[4]):
        # Cron counts from Sunday = 0, APScheduler from Monday = 0: a number would silently be another day.
        raise ValueError("weekdays are written as names (mon, tue, ... sun): a number means another day elsewhere")
    try:
        trigger = CronTrigger.from_crontab(value, timezone="UTC")
    except ValueError as exc:
        raise ValueError(f"not a cron expression: {exc}") from exc
    if trigger.get_next_fire_time(None, datetime(2001, 1, 1, tzinfo=UTC)) is None:
        raise ValueError("it never fires")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+[smhd])+$", "examples": ["30s", "10m", "7d"]}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^\d+ ?(B|KiB|MiB|GiB|TiB)$", "examples": ["128MiB"]}),
]


def _as_text(value: object) -> object:
    """Spark and Iceberg take text: YAML's true and 5 are written as they would be."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _auto_or_bool(value: object) -> object:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError("it is auto, true or false")


# The validator goes first: pydantic's own message for a union would be one for each of its members.
AutoOrBool = Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)]
_Text = Annotated[str, BeforeValidator(_as_text), WithJsonSchema({"type": ["string", "boolean", "number"]})]
TextMap = dict[str, _Text]
Identifier = Annotated[str, AfterValidator(_identifier)]
TimeZone = Annotated[str, AfterValidator(_timezone)]
Cron = Annotated[str, AfterValidator(_cron)]
# By its text: the float 0.1 is not a tenth, and verdicts are decided exactly.
Percent = Annotated[
    Decimal,
    BeforeValidator(lambda value: str(value) if isinstance(value, float) else value),
    Field(ge=0, le=100),
    PlainSerializer(float, when_used="json"),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100}),
]
Dsn = Annotated[str, AfterValidator(_dsn)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
ListenAddress = Annotated[str, AfterValidator(_listen)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
# A key of the contract that does nothing yet: to accept it silently would be worse than to refuse it.
NotYet = BeforeValidator(_not_yet)
