"""The causes of a failed call into the JVM, from the exception that was raised to the root; judges nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.errors.exceptions.captured import CapturedException

# More causes than any chain has: one that is a circle ends there.
_MOST = 100
# Libraries are copied into bundles under another package's name.
_SHADED = re.compile(
    r"^(?:org\.apache\.iceberg\.(?:aws\.|gcp\.|azure\.)?shaded\.|org\.apache\.iceberg\.relocated\."
    r"|org\.apache\.hadoop\.(?:thirdparty|shaded)\.|org\.sparkproject\.|shaded\.parquet\.)"
)
# The status is in the message of AWS's SDK, Azure's, Iceberg's REST client, Nessie's, Google's (before
# the method) and that of Hadoop's file system for Azure.
_STATUS = re.compile(
    r"\b[Ss]tatus [Cc]ode:? (\d{3})\b|\(code: (\d{3}), type: |\bHTTP/(\d{3})\b"
    r"|^(\d{3}) [A-Z][\w ]*\n(?:GET|HEAD|POST|PUT|DELETE) |, (\d{3}), (?:GET|HEAD|POST|PUT|DELETE|PATCH), http"
)
# An exception in the text of another one: Spark reports so what an executor raised, Hive what its client did.
_IN_TEXT = re.compile(r"(?:^|[\s(])((?:[a-z_]\w*\.){2,}[A-Z][\w$]*(?:Exception|Error|Throwable))(?:: (.*))?$", re.M)


@dataclass(frozen=True, slots=True)
class Cause:
    """One exception of a chain. `classes`: its own and those above it, without the package that they were copied to.

    `code`: the service's own word, which AWS's SDK leaves out of the message, or the state of an SQL exception.
    """

    name: str
    message: str
    classes: tuple[str, ...]
    code: str = ""
    status: int = 0


def causes_of(error: BaseException) -> list[Cause]:
    """Outermost first; at least one."""
    throwable = _throwable(error)
    if throwable is None:
        text = error.getMessage() if isinstance(error, PySparkException) else str(error)
        found = [_cause((type(error).__name__,), str(text))]
    else:
        found = [
            _cause(classes, one.getMessage() or "", *_facts(one, classes))
            for one in _chain(throwable)
            for classes in [tuple(_classes(one.getClass()))]
        ]
    return [*found, *_in_text(found[-1].message)] if "\tat " in found[-1].message or throwable is None else found


def frames_of(error: BaseException) -> list[str]:
    """The methods in which its exceptions were raised, the root's first. A call into the JVM for each."""
    raised = reversed(list(_chain(_throwable(error))))
    return [str(frame) for one in raised for frame in one.getStackTrace()]


def _throwable(error: BaseException) -> Any:
    if isinstance(error, Py4JJavaError):
        return error.java_exception
    return error._origin if isinstance(error, CapturedException) else None


def _chain(throwable: Any) -> Iterator[Any]:
    for _ in range(_MOST):
        if throwable is None:
            return
        yield throwable
        throwable = throwable.getCause()


def _classes(found: Any) -> Iterator[str]:
    while found is not None and (name := str(found.getName())) != "java.lang.Throwable":
        yield name
        found = found.getSuperclass()


def _facts(throwable: Any, classes: tuple[str, ...]) -> tuple[str, int]:
    """What the exception's own methods say beside its message: a code, and the status where the message has none."""
    try:
        if "java.sql.SQLException" in classes:
            return str(throwable.getSQLState() or ""), 0
        if "software.amazon.awssdk.awscore.exception.AwsServiceException" in classes:
            details = throwable.awsErrorDetails()
            return "" if details is None else str(details.errorCode() or ""), int(throwable.statusCode())
        if "com.google.cloud.BaseServiceException" in classes:
            return str(throwable.getReason() or ""), int(throwable.getCode())
    except Py4JError:  # a version without the method
        pass
    return "", 0


def _cause(classes: tuple[str, ...], message: str, code: str = "", status: int = 0) -> Cause:
    found = _STATUS.search(message) if not status else None
    number = next((int(group) for group in found.groups() if group), 0) if found is not None else status
    return Cause(classes[0], message, tuple(_SHADED.sub("", name) for name in classes), code, number)


def _in_text(text: str) -> Iterator[Cause]:
    for found in _IN_TEXT.finditer(text):
        yield _cause((found[1],), (found[2] or "").strip())
