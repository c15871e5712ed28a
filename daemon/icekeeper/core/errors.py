"""The errors: one root, few kinds. Adapters raise them, `task.py` decides by their kind."""

from __future__ import annotations

from icekeeper.core.reasons import Reason


class IcekeeperError(Exception):
    """The root. `reason` is the code for ledger and metrics, `where` names the table or the part it is about."""

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
    """It may work when tried again: a lost connection, a commit conflict, a crashed engine."""


class CredentialsExpired(TransientError):
    """Credentials that were good have run out: a new session asks for new ones."""

    default_reason = Reason.ACCESS_DENIED


class PermanentError(IcekeeperError):
    """Trying again changes nothing: a missing table, refused credentials, a result that does not verify."""


class DeadlineExceeded(TransientError):
    """The timeout of a task passed and its work was stopped."""

    default_reason = Reason.DEADLINE


class Cancelled(IcekeeperError):
    """An operator or a shutdown asked for the end; never retried."""

    default_reason = Reason.CANCELLED
