"""Years of nights in a ledger, made by PostgreSQL itself: what pages and queries are measured with, and look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

Execute = Callable[..., Any]

# Every 23rd night is partial, every 61st failed, every 200th missed: the table that it concerns takes turns.
_RUNS = """
    INSERT INTO maintenance_runs
      (run_id, slot, trigger, outcome, started_at, finished_at, duration_s, settings_hash, stages, tables, host)
    SELECT md5('run' || night)::uuid, slot, 'schedule',
           CASE WHEN night % 200 = 7 THEN 'missed' WHEN night % 61 = 3 THEN 'failed' WHEN night % 23 = 5 THEN 'partial'
                ELSE 'success' END,
           slot, slot + length, extract(epoch FROM length), '0123456789abcdef', '{compact,expire,audit}', $3, 'k2'
    FROM (
      SELECT night, $1::timestamptz - make_interval(days => night) AS slot,
             make_interval(secs => 200 + 30 * sin(night / 9.0) + 20000.0 / (night + 100)) AS length
      FROM generate_series(1, $2::int) AS night
    ) AS nights
"""
_TASKS = """
    INSERT INTO maintenance_tasks
      (run_id, stage, iceberg_table, position, outcome, reason, note, attempts, started_at, duration_s, before, after,
       error)
    SELECT md5('run' || night)::uuid, stage, name, number + 10 * place,
           CASE WHEN stage = 'expire' AND night % 5 = 1 THEN 'skipped'
                WHEN stage = 'compact' AND night % 23 = 5 AND number = night % 10 + 1 THEN 'failed' ELSE 'done' END,
           CASE WHEN stage = 'expire' AND night % 5 = 1 THEN 'nothing_expired'
                WHEN stage = 'compact' AND night % 23 = 5 AND number = night % 10 + 1 THEN 'conflict' END,
           '960 files to 1', 1, $1::timestamptz - make_interval(days => night, secs => -20 * (number + 10 * place)),
           CASE stage WHEN 'compact' THEN 12 WHEN 'expire' THEN 2 ELSE 1 END + number / 10.0,
           jsonb_build_object('data_files', 960 + $2 - night, 'small_files', 960,
             'bytes', 14000000::bigint * ($2 + 1 - night), 'records', 500000 * ($2 + 1 - night), 'delete_files', 0,
             'manifests', 96, 'snapshots', 700, 'snapshot_id', 4711),
           jsonb_build_object('data_files', $2 + 3 - night, 'small_files', 2 + night % 3,
             'bytes', 13500000::bigint * ($2 + 1 - night), 'records', 500000 * ($2 + 1 - night), 'delete_files', 0,
             'manifests', 3, 'snapshots', 672 + night % 7, 'snapshot_id', 4712),
           CASE WHEN stage = 'compact' AND night % 23 = 5 AND number = night % 10 + 1
                THEN 'somebody else changed the same files' END
    FROM generate_series(1, $2::int) AS night,
         unnest($3::text[]) WITH ORDINALITY AS tables (name, number),
         unnest('{compact,expire,audit}'::text[]) WITH ORDINALITY AS stages (stage, place)
    WHERE night % 200 <> 7
"""
_AUDITS = """
    INSERT INTO maintenance_audit_log
      (run_id, slot, trigger, run_timestamp, iceberg_table, ch_source, layer, audit_window_hours, window_start,
       window_end, ch_row_count, iceberg_row_count, delta, delta_pct, status, reason, notes, missing_hours)
    SELECT md5('run' || night)::uuid, slot, 'schedule', slot + interval '3 min', name, split_part(name, '.', 2),
           'bronze', 24, day - interval '1 day', day, rows, rows - lacking, -lacking, round(-100.0 * lacking / rows, 4),
           CASE WHEN lacking > 0 THEN 'missing_data' ELSE 'ok' END, NULL,
           CASE WHEN lacking > 0 THEN 'rows lack in 2 hours' ELSE 'as many rows on both sides' END,
           CASE WHEN lacking > 0
                THEN jsonb_build_array(
                  jsonb_build_object('start', day - interval '13 h', 'clickhouse', rows / 24, 'iceberg', 0),
                  jsonb_build_object('start', day - interval '12 h', 'clickhouse', rows / 24, 'iceberg', 0))
                ELSE '[]' END
    FROM (
      SELECT night, name, slot, date_trunc('day', slot) AS day, rows,
             CASE WHEN night % 61 = 3 AND number = night % 10 + 1 THEN rows / 12 ELSE 0 END AS lacking
      FROM (
        SELECT night, name, number, $1::timestamptz - make_interval(days => night) AS slot,
               (500000 + 100000 * sin(night / 7.0) + 20000 * number)::bigint AS rows
        FROM generate_series(1, $2::int) AS night, unnest($3::text[]) WITH ORDINALITY AS tables (name, number)
      ) AS counted
      WHERE night % 200 <> 7
    ) AS audited
"""
_ACKS = """
    INSERT INTO maintenance_acks
      (iceberg_table, day, window_start, window_end, status, rows_missing, run_id, audited_at, note, acked_by, host)
    SELECT iceberg_table, window_start::date, window_start, window_end, status, -delta, run_id, run_timestamp,
           'the exchange was down', 'ada', 'k2'
    FROM maintenance_audit_log WHERE status = 'missing_data' AND window_end < $1::timestamptz - interval '20 days'
"""
# Of the last table none, as of one without a key whose source merges rows; every 9th day was behind the watermark.
_EVIDENCE = """
    INSERT INTO maintenance_evidence
      (iceberg_table, day, run_id, audited_at, certifies, revokes, refuted_by, proof, ch_row_count,
       iceberg_row_count)
    SELECT iceberg_table, window_start::date, run_id, run_timestamp, CASE WHEN status = 'ok' THEN 'counts' END,
           CASE WHEN status <> 'ok' THEN 'missing_rows' END, CASE WHEN status <> 'ok' THEN 'counts' END, 'files',
           ch_row_count, iceberg_row_count
    FROM maintenance_audit_log
    WHERE iceberg_table <> ($1::text[])[cardinality($1)]
      AND (status <> 'ok' OR extract(doy FROM window_start)::int % 9 <> 4)
"""
_LOGS = """
    INSERT INTO maintenance_logs (run_id, line_no, line)
    SELECT run_id, line_no, jsonb_build_object('timestamp', started_at, 'level',
             CASE WHEN line_no % 17 = 0 THEN 'warning' ELSE 'info' END, 'event', 'task_done', 'run_id', run_id,
             'table', 'cold.t' || line_no, 'duration_s', line_no / 10.0)
    FROM maintenance_runs, generate_series(1, $2::int) AS line_no
    WHERE started_at > $1::timestamptz - interval '400 days' AND trigger = 'schedule'
"""


def fill(execute: Execute, tables: Sequence[str], last_slot: datetime, *, nights: int = 1826, lines: int = 100) -> None:
    """`nights` nights before `last_slot`, with their tasks, audits and acknowledgements, and 400 days of log lines.

    `execute` runs a statement with its values.
    """
    names = list(tables)
    for statement in (_RUNS, _TASKS, _AUDITS):
        execute(statement, last_slot, nights, names)
    execute(_ACKS, last_slot)
    execute(_EVIDENCE, names)
    execute(_LOGS, last_slot, lines)
    execute("ANALYZE")
