"""The syntax of simple values: 10m, 7d, 128MiB, 5, cold.trades, a path. Addresses: addresses.py; cron: schedule.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, StrictBool, WithJsonSchema
from pydantic_core import PydanticCustomError

from icekeeper.core.policy import SourceTtlSetting
from icekeeper.core.tables.writer_state import DEFAULT_WRITER_STATE, StateKey
from icekeeper.settings.values.heap import LEAST_HEAP_MIB, heap_mib

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS_B = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_LONGEST_S = 3650 * 86400
_LARGEST_B = 1024 * _UNITS_B["TiB"]
_DURATION = re.compile(r"(\d+)(s|m|h|d)")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%?")
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|TiB)")
# Blanks, backticks and empty steps are typing errors: no catalog takes them.
_IDENTIFIER = r"[^\s.`]+(\.[^\s.`]+)*"
_TABLE_NAME = r"[^\s.`]+(\.[^\s.`]+)+"
_CATALOG_NAME = r"[A-Za-z0-9_]+"
_STATE_KEY = r"[^\s*]+\*?( per [^\s*+]+( \+ [^\s*+]+)*)?"
_COORDINATE = r"[^:\s]+:[^:\s]+:[^:\s]+"


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
    """The same duration in the largest unit that divides it."""
    seconds = round(value.total_seconds())
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS_S[unit] == 0:
            return f"{seconds // _UNITS_S[unit]}{unit}"
    return f"{seconds}s"


def parse_size(value: object) -> int:
    """`128MiB`, `1GiB`; a bare number is refused: its unit is unknown."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = int(match.group(1)) * _UNITS_B[match.group(2)]
        if not _UNITS_B["MiB"] <= size <= _LARGEST_B:
            raise ValueError("a size is at least 1MiB and at most 1024TiB")
        return size
    raise ValueError("a size is written like 128MiB or 1GiB (B, KiB, MiB, GiB, TiB)")


def format_size(value: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % _UNITS_B[unit] == 0:
            return f"{value // _UNITS_B[unit]}{unit}"
    return f"{value}B"


def _state_key(value: object) -> object:
    """`a.key.*`, or `a.key per another + a.third`."""
    if isinstance(value, StateKey):
        return value
    if isinstance(value, str) and re.fullmatch(_STATE_KEY, value):
        key, _, per = value.partition(" per ")
        return StateKey(key, tuple(per.split(" + ")) if per else ())
    raise ValueError("keys of snapshots are written like kafka.connect.offsets.* or a.state per a.job + a.operator")


def _heap(value: str) -> str:
    if heap_mib(value) < LEAST_HEAP_MIB:
        raise ValueError(f"a heap is at least {LEAST_HEAP_MIB}m: Spark does not start with less")
    return value


def text_by(check: Callable[[str], str]) -> BeforeValidator:
    """A validator of text. The message about a value that YAML read as a number shows the syntax, too."""

    def validate(value: object) -> object:
        if isinstance(value, str):
            return check(value)
        if isinstance(value, int | float | date):
            check(str(value))
        return value  # the type reports that it is no text

    return BeforeValidator(validate)


def matching(regex: str, sentence: str) -> Callable[[str], str]:
    """A check of text, for `text_by`: `sentence` is the message where it does not match."""

    def check(value: str) -> str:
        if not re.fullmatch(regex, value):
            raise ValueError(sentence)
        return value

    return check


identifier = matching(_IDENTIFIER, "an identifier has no spaces, backticks or empty parts, like cold.silver_trades")


def _table_name(value: str) -> str:
    if "." not in identifier(value):
        raise ValueError(f"it is named with its namespace, like cold.{value}")
    return value


def such_that(holds: Callable[[Any], bool], sentence: str) -> AfterValidator:
    """A validator of parsed values: `sentence` is the message where the condition does not hold."""

    def validate(value: Any) -> Any:
        if not holds(value):
            raise ValueError(sentence)
        return value

    return AfterValidator(validate)


def _no_flag(value: object) -> object:
    """Python takes true for 1; `retries: true` is a mistake."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "it has to be a number")
    return value


def _exact(value: object) -> object:
    """The float 0.1 is not exactly a tenth, and verdicts are exact."""
    return str(value) if isinstance(value, float) else value


def _percent_or_off(value: object) -> object:
    if value is False or value in ("off", "false"):
        return "off"
    try:
        share = Decimal(str(value))
    except ArithmeticError:
        share = Decimal(-1)
    if not isinstance(value, bool) and share.is_finite() and 0 <= share <= 100:
        return share
    raise ValueError("it has to be a number from 0 to 100, or off")


def parse_share(value: object) -> Decimal:
    """Percent: `10 %`, `2.5%`, or a bare 10; `off` is 0."""
    if value is False or value in ("off", "false"):
        return Decimal(0)
    if not isinstance(value, bool) and (match := _SHARE.fullmatch(str(value).strip())):
        share = Decimal(match.group(1))
        if share <= 100:
            return share
    raise ValueError("a share is written like 10 % or 2.5 %, of at most 100 %, or it is off")


def format_share(value: Decimal) -> str:
    return f"{value.normalize():f} %" if value else "off"


_MOST_DAYS_BACK = 14


def parse_lookback(value: object) -> timedelta:
    """Whole days: `3d`; `off` is none."""
    if value is False or value in ("off", "false"):
        return timedelta(0)
    text = f"it is whole days, at most {_MOST_DAYS_BACK}, like 3d, or off"
    try:
        lookback = parse_duration(value)
    except ValueError as exc:
        raise ValueError(text) from exc
    if lookback % timedelta(days=1) or lookback.days > _MOST_DAYS_BACK:
        raise ValueError(text)
    return lookback


def _as_text(value: object) -> object:
    """Spark and Iceberg take text: YAML's true and 5 become text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _setting(value: object) -> object:
    """Without it pydantic reports an error for each member of the union."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str | int | float):
        return value
    raise PydanticCustomError("setting", "it has to be text or a number")


def _auto_none_or_duration(value: object) -> object:
    if value is None:
        return "auto"
    if value in ("auto", "none"):
        return value
    try:
        return parse_duration(value)
    except ValueError as exc:
        raise ValueError(f"{exc}; or it is auto or none") from exc


def _auto_or_bool(value: object) -> object:
    if value in ("true", "false"):  # as the environment writes them
        return value == "true"
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError("it is auto, true or false")


def pattern(text: str, *examples: str) -> WithJsonSchema:
    """The pattern that editors check; the whole value has to match."""
    return WithJsonSchema({"type": "string", "pattern": f"^{text}$", "examples": list(examples)})


_PLAIN = WithJsonSchema({"type": ["string", "boolean", "number"]})
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, when_used="json"),
    pattern(r"(\d+[smhd])+", "30s", "10m", "7d"),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, when_used="json"),
    pattern(r"\d+ ?(B|KiB|MiB|GiB|TiB)", "128MiB", "1GiB"),
]
Heap = Annotated[str, text_by(_heap), pattern(r"\d+[mg]", "2g", "1500m")]
# After the limits of a number, or its JSON Schema would not have them.
NoFlag = BeforeValidator(_no_flag)
Percent = Annotated[
    Decimal,
    BeforeValidator(_exact),
    Field(ge=0, le=100),
    PlainSerializer(float, when_used="json"),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100}),
]
PercentOrOff = Annotated[
    Decimal | Literal["off"],
    BeforeValidator(_percent_or_off),
    PlainSerializer(lambda value: value if value == "off" else float(value), when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 100}, {"enum": ["off", False]}]}),
]
Share = Annotated[
    Decimal,
    BeforeValidator(parse_share),
    PlainSerializer(format_share, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^(\d+(\.\d+)? ?%?|off)$", "examples": ["10 %", "off"]},
                {"type": "number", "minimum": 0, "maximum": 100},
                {"const": False},
            ]
        }
    ),
]
LookBack = Annotated[
    timedelta,
    BeforeValidator(parse_lookback),
    PlainSerializer(lambda value: format_duration(value) if value else "off", when_used="json"),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": r"^(\d+[smhd])+$|^off$", "examples": ["3d", "off"]}, {"const": False}]}
    ),
]
SourceTtl = Annotated[
    SourceTtlSetting,
    BeforeValidator(_auto_none_or_duration),
    PlainSerializer(lambda value: value if isinstance(value, str) else format_duration(value), when_used="json"),
    pattern(r"((\d+[smhd])+|auto|none)", "auto", "none", "7d"),
]
AutoOrBool = Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)]
# For keys that no environment variable sets, so that text need not be accepted as a flag.
Flag = StrictBool
_not_blank = such_that(lambda text: bool(text.strip()), "it is blank: leave it out to set nothing")
Text = Annotated[str, _not_blank, WithJsonSchema({"type": "string", "minLength": 1})]
TextMap = dict[str, Annotated[str, BeforeValidator(_as_text), _PLAIN]]
SettingMap = dict[str, Annotated[str | int | float, BeforeValidator(_setting), _PLAIN]]
Identifier = Annotated[str, text_by(identifier), pattern(_IDENTIFIER, "silver_trades")]
_once = such_that(lambda names: len({*names}) == len(names), "a column is named once")
Columns = Annotated[tuple[Identifier, ...], _once, Field(json_schema_extra={"uniqueItems": True})]
WriterStateKey = Annotated[
    StateKey,
    BeforeValidator(_state_key),
    PlainSerializer(str, when_used="json"),
    pattern(_STATE_KEY, *map(str, DEFAULT_WRITER_STATE)),
]
TableName = Annotated[str, text_by(_table_name), pattern(_TABLE_NAME, "cold.silver_trades")]
_catalog_name = matching(_CATALOG_NAME, "a catalog's name is made of letters, digits and underscores, like k2")
CatalogName = Annotated[str, text_by(_catalog_name), pattern(_CATALOG_NAME, "k2")]
_INSTALLATION = r"(?!all$)[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_installation = matching(_INSTALLATION, "an installation is named like k2 or lake-prod, and not all")
InstallationName = Annotated[str, text_by(_installation), pattern(_INSTALLATION, "k2")]
_coordinate = matching(_COORDINATE, "a Maven coordinate is written group:artifact:version")
Coordinate = Annotated[str, text_by(_coordinate), pattern(_COORDINATE, "org.postgresql:postgresql:42.7.13")]
_absolute = such_that(Path.is_absolute, "it has to be an absolute path: one that begins with /")
AbsolutePath = Annotated[Path, _absolute, pattern("/.*", "/var/lib/icekeeper")]
