"""What was read of a rewrite's rows, before and after, and what a difference means. Reading: adapters/iceberg/rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from icekeeper.core.audit.records import Fingerprint
from icekeeper.core.formats import counted, listed

# How many columns a text names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Content:
    """The fingerprints of the rows of some partitions, before and after a rewrite: of whole rows, and by column.

    `ids_before` and `ids_after`: of those that have an id (format version 3), with their ids and the sequence numbers
    of their last updates. Rows of before that version get theirs with a later commit, which may be the rewrite's own.
    """

    before: Fingerprint
    after: Fingerprint
    columns_before: Mapping[str, Fingerprint] = field(default_factory=dict)
    columns_after: Mapping[str, Fingerprint] = field(default_factory=dict)
    ids_before: Fingerprint = field(default_factory=Fingerprint)
    ids_after: Fingerprint = field(default_factory=Fingerprint)

    @property
    def equal(self) -> bool:
        """Whether no row is another one, as far as that can be told."""
        lost_ids = self.ids_before.rows == self.before.rows and self.ids_before != self.ids_after
        return self.before == self.after and not lost_ids

    @property
    def proven(self) -> bool:
        """Whether each row is the same: where only some had ids, these can't be told apart after it."""
        return self.equal and self.ids_before.rows in (0, self.before.rows)

    @property
    def different(self) -> tuple[str, ...]:
        """The columns whose values differ; none where only their combination in rows does."""
        names = (*self.columns_before, *(name for name in self.columns_after if name not in self.columns_before))
        return tuple(name for name in names if self.columns_before.get(name) != self.columns_after.get(name))


def wrong_content(content: Content) -> str:
    """What fingerprints that differ mean, in a clause."""
    if content.before.rows != content.after.rows:
        return f"{counted(content.after.rows, 'row')} after {content.before.rows}"
    if content.different:
        return f"other values of {listed(content.different, _NAMED)}"
    if content.before == content.after:
        return "other ids of rows (_row_id, _last_updated_sequence_number)"
    return "the same values, in other rows"
