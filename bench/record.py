"""What was measured: a sample is one rival on one case in one round. Kept as JSON lines; it judges nothing."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

Store = Literal["local", "s3", "s3+10ms"]
STORES: tuple[Store, ...] = get_args(Store)

# The rivals' names in the samples.
DEFAULTS = "defaults"  # icekeeper as a new user gets it
BINPACK = "binpack"  # the same with compact.strategy: binpack
THIRD = "third"  # of the part `first`: the third compaction of such a session
COLD = "cold"  # of that part, too: without the warm-up of its session
CALL = "call"
ZAMBONI = "zamboni"
PLATFORM = "platform"
FLOOR = "floor"
COPY = "copy"  # the bytes, copied as they are
BARE = "bare"  # what an expiry reads and deletes, and nothing else

# Those of the part `audit`: icekeeper in all of its ways, and reading without it.
READ_TIME = "reading the event time"
READ_KEY = "reading event time and key"
MANIFESTS = "manifests"
FILES = "files, all new"
KNOWN = "files, all known"
ROWS = "rows"
KEY = "key"
COMPARED = "key and compare"
LOST = "key, one row lost"
CHANGED = "key and compare, one price changed"


@dataclass(frozen=True, slots=True)
class Case:
    """What every rival of a round is given.

    `part` is compact, expire, idle, night, or a curve: files, snapshots, tables; session and first are the start of a
    session and its first compaction. `shape` is 960, 3800, big or big8; of an idle night also `960 without audit`, of
    an audit its number of rows.
    """

    part: str
    shape: str
    store: Store


@dataclass(frozen=True, slots=True)
class Output:
    """The table after the work, from its metadata and the footers of its files: how good what was written is.

    `copied`: its row groups are copies. Of who knows no footers, `row_groups` is 0.
    """

    files: int
    bytes: int
    rows: int
    row_groups: int
    columns_with_bounds: int
    copied: bool = False


@dataclass(frozen=True, slots=True)
class Scans:
    """Seconds for reading all columns of the day from what was written, by Spark and by pyarrow: the better of two."""

    spark_s: float
    arrow_s: float


@dataclass(frozen=True, slots=True)
class Sides:
    """What an audit took of Spark's JVM and of ClickHouse's server. `clickhouse_bytes`: read, uncompressed.

    `spark_queries` and `clickhouse_queries` count or read rows; `clickhouse_statements`: all that were sent, also those
    that ask for types and settings.
    """

    jvm_cpu_s: float
    clickhouse_cpu_s: float
    clickhouse_peak_mib: float
    clickhouse_bytes: int
    clickhouse_queries: int
    clickhouse_statements: int
    spark_queries: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What one rival took, once. One that failed has its reason in `note` and no part in any median."""

    case: Case
    rival: str
    round: int
    seconds: float
    x: float = 0  # the place on a curve: files, snapshots or tables
    cpu_s: float = 0.0  # of Python and the JVM, without the servers
    python_peak_mib: float = 0.0
    jvm_peak_mib: float = 0.0
    # At the store's proxy: GET, PUT, HEAD, LIST, POST, DELETE; none on local.
    requests: Mapping[str, int] = field(default_factory=dict)
    bytes_read: int = 0
    bytes_written: int = 0
    input_files: int = 0
    tables: int = 1  # how many tables `seconds` covers
    output: Output | None = None
    sides: Sides | None = None
    scans: Scans | None = None
    failed: bool = False
    note: str = ""
    measured_at: str = ""  # when it began: ISO 8601, UTC
    others: float = 0.0  # how many cores other programs used meanwhile


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what a run of the benchmark was measured: the first line of its samples."""

    measured_at: str  # ISO 8601, UTC
    cores: int
    memory_mib: int
    versions: Mapping[str, str]
    settings: Mapping[str, str]  # what the session was given: master, heap
    load: float = 0.0  # how many processes wanted a core in the minute before: what else the machine did
    minutes: float = 0.0  # how long it took in all
    starts: int = 1  # how often it was begun: rounds that one had no time for may come from another
    left_out: tuple[str, ...] = ()  # rounds that there was no time for, a sentence each


def to_json(record: Sample | Machine) -> str:
    """One line of the file."""
    return json.dumps({"is": type(record).__name__, **dataclasses.asdict(record)}, sort_keys=True)


def from_json(line: str) -> Sample | Machine:
    """The record that `to_json` wrote.

    Raises:
        ValueError: The line is none of ours.
    """
    document: dict[str, Any] = json.loads(line)
    kind = document.pop("is", None)
    if kind == "Machine":
        return Machine(**(document | {"left_out": tuple(document["left_out"])}))
    if kind != "Sample":
        raise ValueError(f"no record of the benchmark: {line[:80]}")
    output, sides, scans = (document.pop(name, None) for name in ("output", "sides", "scans"))
    return Sample(
        **(document | {"case": Case(**document["case"])}),
        output=None if output is None else Output(**output),
        sides=None if sides is None else Sides(**sides),
        scans=None if scans is None else Scans(**scans),
    )


def write(record: Sample | Machine, file: IO[str]) -> None:
    """Appends a record at once: a run that dies keeps what it has measured."""
    file.write(to_json(record) + "\n")
    file.flush()


def kept(path: Path | None) -> tuple[list[Machine], list[Sample]]:
    """What a file holds that may not be there yet."""
    return read(path) if path is not None and path.exists() else ([], [])


def read(path: Path) -> tuple[list[Machine], list[Sample]]:
    """Everything a file holds, in its order."""
    records = [from_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    machines = [record for record in records if isinstance(record, Machine)]
    return machines, [record for record in records if isinstance(record, Sample)]
