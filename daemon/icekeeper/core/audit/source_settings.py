"""The ClickHouse settings that a count fixes, because other values would leave rows out without a word."""

from __future__ import annotations

# Rows of one key are merged while they are read: the audit decides about it table by table (audit.final).
FINAL = "final"
TIMEZONE = "session_timezone"

# By the names and values of system.settings. Limits stay as they are: one that is exceeded is an error now.
EXACT_SETTINGS = {
    # Of a column without a zone, hours and days would be those of the server's zone.
    TIMEZONE: "UTC",
    # A limit that is exceeded would end the count with what was read until then.
    "read_overflow_mode": "throw",
    "read_overflow_mode_leaf": "throw",
    "timeout_overflow_mode": "throw",
    "timeout_overflow_mode_leaf": "throw",
    "result_overflow_mode": "throw",
    "group_by_overflow_mode": "throw",
    "distinct_overflow_mode": "throw",
    "sort_overflow_mode": "throw",
    "set_overflow_mode": "throw",
    "join_overflow_mode": "throw",
    "transfer_overflow_mode": "throw",
    # Rows would be filtered, cut off, or deleted ones counted.
    "additional_table_filters": "{}",
    "additional_result_filter": "",
    "limit": "0",
    "offset": "0",
    "apply_deleted_mask": "1",
    # Rows of one key would be filtered before they are merged.
    "optimize_move_to_prewhere_if_final": "0",
    "ignore_cold_parts_seconds": "0",
    "parallel_replicas_count": "0",
    "parallel_replica_offset": "0",
    # An answer of an earlier count.
    "use_query_cache": "0",
    "empty_result_for_aggregation_by_empty_set": "0",
}
# Shards and replicas that are away or behind would be left out: of tables that read other servers.
DISTRIBUTED_SETTINGS = {
    "skip_unavailable_shards": "0",
    "fallback_to_stale_replicas_for_distributed_queries": "0",
    "distributed_group_by_no_merge": "0",
    "optimize_skip_unused_shards": "0",
}
