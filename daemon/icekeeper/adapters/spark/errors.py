"""Exceptions from the JVM (Spark, Iceberg, the clouds' SDKs, JDBC) translated into `core.errors`, by `failures/`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError

from icekeeper.adapters.spark.failures.causes import Cause, causes_of, frames_of
from icekeeper.adapters.spark.failures.missing import jar_advice
from icekeeper.adapters.spark.failures.rule import Retry, Rule
from icekeeper.adapters.spark.failures.rules import COMMIT_UNKNOWN, rule_of
from icekeeper.adapters.spark.stacks import system_of
from icekeeper.core.errors import CommitUnknown, IcekeeperError, PermanentError, SessionSpent, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.secrets import hide_in_text

# A metadata file that could be read and holds something else: broken JSON, a broken archive, a wrong checksum.
_METADATA_READ = re.compile(r"Failed to read file: .*\.metadata\.json")
_NO_DOCUMENT = frozenset(
    {
        "com.fasterxml.jackson.core.JsonProcessingException",
        "java.util.zip.ZipException",
        "java.io.EOFException",
        "org.apache.hadoop.fs.ChecksumException",
    }
)
_KINDS = {Retry.NEVER: PermanentError, Retry.LATER: TransientError, Retry.RENEWED: SessionSpent}
_MAX_MESSAGE = 400


def translate(
    error: BaseException, where: str | None = None, packages: Sequence[str] = (), jars: Sequence[str] = ()
) -> IcekeeperError:
    """The error of ours for what a call into the JVM raised; the caller raises it `from` the original.

    `packages`, `jars`: the session's, for the advice where one is missing.
    """
    if isinstance(error, IcekeeperError):
        return error
    if is_engine_gone(error):
        return TransientError(f"the JVM is gone ({type(error).__name__})", reason=Reason.ENGINE_DOWN, where=where)
    causes = causes_of(error)
    root = next((cause for cause in reversed(causes) if cause.message.strip()), causes[-1])
    found = rule_of(causes)
    if _is_broken_metadata(causes, found):
        return PermanentError(_message(causes[0], root), reason=Reason.METADATA_CORRUPT, where=where)
    if found is None:
        return PermanentError(_message(root), reason=Reason.UNEXPECTED, where=where)
    rule, cause = found
    reason = (system_of(frames_of(error)) or rule.reason) if rule.shared else rule.reason
    text = _message(cause, root)
    if reason is Reason.COMMIT_UNKNOWN:
        return CommitUnknown(text, refusal=_refusal(causes, root, where), where=where)
    if reason is Reason.JAR_MISSING:
        text = f"{text}; {jar_advice(causes, packages, jars)}"
    return _KINDS[rule.retry](text, reason=reason, where=where)


def _refusal(causes: Sequence[Cause], root: Cause, where: str | None) -> PermanentError | None:
    """What a commit was answered that may have landed, where that was a refusal."""
    found = rule_of([cause for cause in causes if COMMIT_UNKNOWN not in cause.classes])
    if found is None or found[0].reason is not Reason.ACCESS_DENIED:
        return None
    return PermanentError(_message(found[1], root), reason=Reason.ACCESS_DENIED, where=where)


def _is_broken_metadata(causes: Sequence[Cause], found: tuple[Rule, Cause] | None) -> bool:
    return (
        (found is None or found[0].retry is not Retry.RENEWED)
        and any(_METADATA_READ.search(cause.message) for cause in causes)
        and any(_NO_DOCUMENT.intersection(cause.classes) for cause in causes)
    )


def is_engine_gone(error: BaseException) -> bool:
    """Whether the connection to the JVM is broken."""
    if isinstance(error, Py4JNetworkError | ConnectionError | EOFError):
        return True
    if isinstance(error, Py4JJavaError):
        return False  # Java has answered; reading the text of its exception would be another call
    # Where the connection breaks in the middle of a call, only py4j's message says so; Java's errors have a trace.
    message = str(error)
    broken = (
        "Answer from Java side is empty" in message
        or ("error occurred while calling" in message and "Trace" not in message)
        # Every JVM has these classes; of others it may be the truth.
        or ("java.lang." in message and "does not exist in the JVM" in message)
    )
    return isinstance(error, Py4JError) and broken


def _message(cause: Cause, root: Cause | None = None) -> str:
    """A cause in one line, and the root of its chain where that adds to it: `RESTException: ... (...: refused)`."""
    text = _line(cause)
    if root is not None and root != cause and (inner := _line(root)) not in text:
        text = f"{text} ({inner})"
    return text


def _line(cause: Cause) -> str:
    text = cause.message.strip()
    first = text.splitlines()[0] if text else ""
    # A JDBC URL or a signed URL may hold a secret. Hidden before the text is cut: half a URL is not recognised.
    return hide_in_text(f"{cause.name.rpartition('.')[2]}: {first}".removesuffix(": "))[:_MAX_MESSAGE]
