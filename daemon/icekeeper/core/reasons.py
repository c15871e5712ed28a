"""The reasons: why a task was skipped, held or failed, each with its advice."""

from __future__ import annotations

from icekeeper.core.enums import Advised


class Reason(Advised):
    """The same code in the ledger, the metrics, the log and the page."""

    NOTHING_SMALL = "nothing_small", "Nothing to do: every data file already has its size."
    TOO_FEW_FILES = (
        "too_few_files",
        "Nothing to do yet: no partition holds enough small files; compact.min_input_files sets how many are enough.",
    )
    NOTHING_EXPIRED = "nothing_expired", "Nothing to do: no snapshot is both old enough and unreferenced."
    SNAPSHOT_EXPIRED = (
        "snapshot_expired",
        "The snapshot that was counted is gone, and what it held can't be counted again: audit the day as it is now.",
    )
    AUDIT_HOLD = (
        "audit_hold",
        "Old snapshots may be the only copy of missing rows: repair the day or acknowledge it, then the work goes on.",
    )
    OPERATOR_HOLD = (
        "operator_hold",
        "This stage of the table was put on hold: the note says by whom and why; `icekeeper release TABLE` ends that.",
    )
    GC_DISABLED = (
        "gc_disabled",
        "The table forbids expiry: set its property gc.enabled to true if its files belong to it alone.",
    )
    DELETE_DISABLED = (
        "delete_disabled",
        "Expired files would stay for good: set s3.delete-enabled to true, or s3.delete.tags.* and a lifecycle rule.",
    )
    WRITER_STATE = (
        "writer_state",
        "A writer needs old snapshots to find its state: let it commit again, or lower expire.writer_state_max.",
    )
    TABLE_UNSUPPORTED = (
        "table_unsupported",
        "Spark can't read a column of this table: rename it or change its type, or leave the table out, by enabled: "
        "false.",
    )
    TABLE_NOT_FOUND = (
        "table_not_found",
        "The catalog has no such table: compare tables[].name, catalog.name and catalog.warehouse with the catalog.",
    )
    CONFLICT = (
        "conflict",
        "Another writer changed the table meanwhile: the next run plans anew; look for a second job if it repeats.",
    )
    COMMIT_UNKNOWN = (
        "commit_unknown",
        "The catalog did not say whether the commit landed: delete no file by hand; the next run sees it in the table.",
    )
    DEADLINE = (
        "deadline",
        "It took longer than its timeout: what was committed is kept; raise the stage's timeout or look at the engine.",
    )
    BUDGET = (
        "budget",
        "The run's max_duration was used up: the next night goes on; raise run.max_duration if it repeats.",
    )
    PROCESS_DIED = (
        "process_died",
        "The process died over this task: look at the host's memory and spark.log; after two deaths it is left alone.",
    )
    CANCELLED = (
        "cancelled",
        "It was stopped: after a shutdown the slot is resumed, after a cancel run it again when it suits.",
    )
    ENGINE_DOWN = "engine_down", "Spark's JVM is gone or does not start: read spark.log in the state directory."
    ENGINE_OUT_OF_MEMORY = (
        "engine_out_of_memory",
        "Spark ran out of memory: raise spark.driver_memory within the container's limit.",
    )
    JAR_MISSING = (
        "jar_missing",
        "Spark has no jar for this catalog, store or driver, or one that doesn't fit: the error has the line to write.",
    )
    CATALOG_DOWN = "catalog_down", "The Iceberg catalog does not answer: check catalog.uri and the service behind it."
    FILE_MISSING = (
        "file_missing",
        "A file that the table refers to is not in the store: find out who deleted it; a backup may have it.",
    )
    FILE_CORRUPT = (
        "file_corrupt",
        "A file has another length than its manifest says, or can't be read: restore it from a backup.",
    )
    COUNT_MISMATCH = (
        "count_mismatch",
        "The manifests claim other rows than a file holds, or list it twice: find out what wrote them; counts of the "
        "window are wrong.",
    )
    SCHEMA_MISMATCH = (
        "schema_mismatch",
        "A file does not fit the table's schema, and a rewrite would change its values: change the schema or its name "
        "mapping so that it fits, or write the file again.",
    )
    METADATA_MISSING = (
        "metadata_missing",
        "The metadata file that the catalog names is not there: put it back, or, where the table's versions are there "
        "without it, write the highest of them into version-hint.text.",
    )
    METADATA_CORRUPT = (
        "metadata_corrupt",
        "The table's newest metadata file is empty, cut off or not metadata: put back a whole copy of it; the version "
        "before it lacks the last commit.",
    )
    WAREHOUSE_MOVED = (
        "warehouse_moved",
        "The metadata names its files under another path than the catalog opens: mount the warehouse at the path that "
        "the metadata names, and set catalog.warehouse to that path.",
    )
    STORAGE_DOWN = "storage_down", "The object store does not answer: check s3.endpoint or the warehouse's mount."
    ACCESS_DENIED = "access_denied", "Credentials were refused: check user, password and rights of the named part."
    SOURCE_DOWN = "source_down", "ClickHouse does not answer: check clickhouse.url; then repeat the audit of this slot."
    SOURCE_FAULT = (
        "source_fault",
        "ClickHouse, or a proxy before it, answers by a fault of its own, which may pass: read the error and the "
        "server's log; then repeat the audit of this slot.",
    )
    SOURCE_OUT_OF_MEMORY = (
        "source_out_of_memory",
        "The count went over a memory limit of ClickHouse: raise clickhouse.settings.max_memory_usage.",
    )
    SOURCE_TABLE_NOT_FOUND = (
        "source_table_not_found",
        "ClickHouse has no such table or column: compare tables[].source and tables[].timestamp with it.",
    )
    SOURCE_TYPE = (
        "source_type",
        "ClickHouse holds its columns in another way than tables[].source says: write there what the error names.",
    )
    SOURCE_FILTERED = (
        "source_filtered",
        "A row policy hides rows from clickhouse.user: give it a policy USING 1 on this table, or another user.",
    )
    SOURCE_LIMITED = (
        "source_limited",
        "A limit or a quota of ClickHouse stands against a whole count: lift what the error names for clickhouse.user.",
    )
    SOURCE_EXPIRED = (
        "source_expired",
        "The window is older than the source's TTL, so ClickHouse has dropped rows: this day can't be judged any more.",
    )
    SOURCE_EMPTY = "source_empty", "ClickHouse holds no row of the window: was the market closed, or did the feed stop?"
    KEY_TYPE = (
        "key_type",
        "A column of audit.key or audit.compare is missing, or of a type that can't be compared: name others, with "
        "integers, decimals, texts or instants.",
    )
    CONTENT_MISMATCH = (
        "content_mismatch",
        "Iceberg holds rows twice, or with other values than ClickHouse: look at the keys or the times that the audit "
        "names; a cycle of the offload that was written twice doubles its rows.",
    )
    OFFLOAD_BEHIND = (
        "offload_behind",
        "Rows of the window are still to be offloaded: let the offload catch up, then repeat the audit of this slot.",
    )
    OFFLOAD_RUNNING = (
        "offload_running",
        "The offload writes and this catalog takes one writer: a run waits offload.wait for it; see why cycles go on.",
    )
    LEDGER_DOWN = (
        "ledger_down",
        "PostgreSQL does not answer, or lacks the tables: check postgres.dsn and the server "
        "(an embedded one: state_dir/ledger/server.log), run `icekeeper migrate`.",
    )
    OBSERVING = (
        "observing",
        "By mode: observe what would be done is noted and nothing is changed; mode: maintain lets it act.",
    )
    REWRITE_MISMATCH = (
        "rewrite_mismatch",
        "A rewrite is not what it replaced: roll back to the snapshot that is tagged (docs/operations.md), or "
        "accept it: `icekeeper ack TABLE --rewrite --note TEXT`.",
    )
    DISK_LOW = (
        "disk_low",
        "The disk is nearly full: free space in the file system that is named; run.min_free_disk sets the limit.",
    )
    CLOCK_SKEW = (
        "clock_skew",
        "This host's clock and the servers' clocks differ: check NTP on all of them, then run the slot again.",
    )
    NOTHING_MISSING = "nothing_missing", "Nothing to do: no finding of missing rows is left in this window."
    NOT_REPAIRABLE = (
        "not_repairable",
        "Missing rows can't be brought back so: the note says of which finding and why, `icekeeper repair` what to do.",
    )
    NOT_VERIFIED = (
        "not_verified",
        "What was found afterwards is not what was planned: read the error, look at the table before the next night.",
    )
    UNEXPECTED = "unexpected", "An error that icekeeper has no name for: read the log of the run, and report it."


# A system that every table needs: where one is down, the next table is the probe, and the rest is not tried. What one
# stage of a run found down, the next one only probes.
SYSTEM_DOWN = frozenset({Reason.CATALOG_DOWN, Reason.STORAGE_DOWN, Reason.ENGINE_DOWN, Reason.SOURCE_DOWN})
