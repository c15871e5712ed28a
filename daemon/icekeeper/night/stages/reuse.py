"""Whether Iceberg's rows of an older day have to be read again. Which audits count for that: core/audit/lookback.py."""

from __future__ import annotations

import structlog

from icekeeper.core.audit.lookback import may_be_reused
from icekeeper.core.audit.proof import FilesProof
from icekeeper.core.audit.records import AuditResult, SourceCount
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.policy import AuditPolicy, TablePolicy
from icekeeper.core.tables.rewrites import ProvenBy
from icekeeper.night.stages.context import Deadline, TaskContext

log = structlog.get_logger(__name__)


async def as_before(
    policy: TablePolicy,
    rules: AuditPolicy,
    context: TaskContext,
    warm: SourceCount,
    files: FilesProof | None,
    deadline: Deadline,
) -> AuditResult | None:
    """The day's last audit, where both sides have the same rows as then; None where Iceberg's have to be read.

    `files`: those of now, each of which is there. They are the same but for rewrites of this run that were proven by
    content: metrics are of all that was rewritten, and not of this day.
    """
    before = context.before
    if before is None or files is None or not may_be_reused(before, warm, rules):
        return None
    if before.files_digest is None or files.digest is None:
        return None
    digest = before.files_digest
    for rewrite in context.proven.get(policy.name, ()) if digest != files.digest else ():
        if rewrite.how is not ProvenBy.CONTENT:
            continue  # where it touched the day, the next comparison fails
        replaced, written = [
            await _digest_at(policy, context, each, deadline) for each in (rewrite.parent_id, rewrite.snapshot_id)
        ]
        if replaced != digest or written is None:
            return None
        digest = written
    return before if digest == files.digest else None


async def _digest_at(policy: TablePolicy, context: TaskContext, snapshot_id: int, deadline: Deadline) -> str | None:
    try:
        proof = await context.ports.lakehouse.prove_files(
            policy.name, policy.timestamp, context.window, deadline.remaining(), snapshot_id, whole=False
        )
    except IcekeeperError as exc:
        log.info("rewrite_not_followed", snapshot_id=snapshot_id, error=str(exc))
        return None  # its rows are read
    return proof.digest
