"""The exceptions: adapters raise them, and night/task.py decides by their kind whether to retry."""

from __future__ import annotations

from icekeeper.core.reasons import Reason


class IcekeeperError(Exception):
    """The root. `reason` is the code for ledger and metrics, `where` the table or system concerned."""

    default_reason = Reason.UNEXPECTED

    def __init__(self, message: str, *, reason: Reason | None = None, where: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason
        self.where = where

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.where}: {message}" if self.where else message


class ConfigError(IcekeeperError):
    """The settings are wrong: every mistake found, one line each. Exit code 2."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class TransientError(IcekeeperError):
    """A retry may succeed: a lost connection, a commit conflict, a crashed engine."""


class SessionSpent(TransientError):
    """The session can't do it any more, and a new one may: its credentials, clients or memory are used up."""


class CommitUnknown(TransientError):
    """Whether a commit landed is not known. `refusal`: what it was answered, where that was no: final if it did not."""

    default_reason = Reason.COMMIT_UNKNOWN

    def __init__(self, message: str, *, refusal: PermanentError | None = None, where: str | None = None) -> None:
        super().__init__(message, where=where)
        self.refusal = refusal


class PermanentError(IcekeeperError):
    """A retry changes nothing: a missing table, refused credentials, a failed verification."""


class UnreadableFiles(PermanentError):
    """Rows can't be read; `files` are those at which that has failed."""

    def __init__(self, message: str, files: tuple[str, ...], *, reason: Reason, where: str | None = None) -> None:
        super().__init__(message, reason=reason, where=where)
        self.files = files


class DeadlineExceeded(TransientError):
    """The timeout of a task passed and its work was stopped."""

    default_reason = Reason.DEADLINE


class Cancelled(IcekeeperError):
    """Cancelled by an operator or a shutdown; never retried."""

    default_reason = Reason.CANCELLED
