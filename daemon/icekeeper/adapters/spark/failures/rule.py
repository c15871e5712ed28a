"""A rule: which causes it matches, what they mean, and whether another attempt may go well."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from icekeeper.adapters.spark.failures.causes import Cause
from icekeeper.core.reasons import Reason


class Retry(Enum):
    """Whether another attempt may go well."""

    NEVER = auto()
    LATER = auto()
    # In a new session: this one's credentials, clients or memory are used up.
    RENEWED = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """`classes`: any of them, none for every class. `code` and `message`: patterns, the code's for all of it.

    `shared`: raised by libraries that both the catalog and the store use; the stack says for which.
    """

    reason: Reason
    retry: Retry
    classes: frozenset[str] = frozenset()
    code: re.Pattern[str] | None = None
    status: frozenset[int] = frozenset()
    message: re.Pattern[str] | None = None
    shared: bool = False

    def matches(self, cause: Cause) -> bool:
        return (
            (not self.classes or any(self._is(name) for name in cause.classes))
            and (self.code is None or self.code.fullmatch(cause.code) is not None)
            and (not self.status or cause.status in self.status)
            and (self.message is None or self.message.search(cause.message) is not None)
        )

    def _is(self, name: str) -> bool:
        return name in self.classes or any(known[-1] == "." and name.startswith(known) for known in self.classes)


def rule(
    reason: Reason,
    retry: Retry,
    *classes: str,
    code: str | None = None,
    status: Sequence[int] = (),
    message: str | None = None,
    shared: bool = False,
) -> Rule:
    return Rule(
        reason,
        retry,
        frozenset(name for line in classes for name in line.split()),
        re.compile(code) if code is not None else None,
        frozenset(status),
        re.compile(message, re.IGNORECASE) if message is not None else None,
        shared,
    )


COMMIT_UNKNOWN = "org.apache.iceberg.exceptions.CommitStateUnknownException"
