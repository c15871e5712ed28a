"""What exceptions of the JVM mean: their reasons, whether they are tried again, and their messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError

from icekeeper.adapters.spark.errors import translate
from icekeeper.core.errors import PermanentError, TransientError
from icekeeper.core.reasons import Reason

ICEBERG = "org.apache.iceberg.exceptions"
S3 = "software.amazon.awssdk.services.s3.model.S3Exception"
GLUE = "software.amazon.awssdk.services.glue.model.GlueException"
SDK = "software.amazon.awssdk.core.exception.SdkClientException"
SPARK = "org.apache.spark.SparkException"
JACKSON = "org.apache.iceberg.shaded.com.fasterxml.jackson.databind"
RUNTIME = "java.lang.RuntimeException"


@dataclass
class Throwable:
    """As much of a java.lang.Throwable as a translation reads."""

    name: str
    message: str | None
    cause: Throwable | None = None
    _target_id: str = "o1"

    def getClass(self) -> Any:
        return self

    def getName(self) -> str:
        return self.name

    def getMessage(self) -> str | None:
        return self.message

    def getCause(self) -> Throwable | None:
        return self.cause


def raised(*links: tuple[str, str | None]) -> Py4JJavaError:
    """What py4j raises for a chain of causes, the outermost first."""
    throwable: Throwable | None = None
    for name, message in reversed(links):
        throwable = Throwable(name, message, throwable)
    return Py4JJavaError("An error occurred while calling o1.x.\n", throwable)


CASES = [
    (Reason.COMMIT_UNKNOWN, True, [(f"{ICEBERG}.CommitStateUnknownException", "Service failed: 504")]),
    (Reason.COMMIT_UNKNOWN, True, [("java.lang.IllegalArgumentException", "arraySize cannot be negative but was: -3")]),
    (Reason.ENGINE_OUT_OF_MEMORY, True, [(SPARK, "Job aborted"), ("java.lang.OutOfMemoryError", "Java heap space")]),
    (Reason.TABLE_NOT_FOUND, False, [(f"{ICEBERG}.NoSuchTableException", "Table does not exist: cold.t")]),
    (
        Reason.TABLE_NOT_FOUND,
        False,
        [
            ("org.apache.iceberg.jdbc.UncheckedSQLException", "Cannot check and eventually update SQL schema"),
            ("org.postgresql.util.PSQLException", 'ERROR: relation "iceberg_tables" does not exist'),
        ],
    ),
    (Reason.CATALOG_DOWN, False, [("org.postgresql.util.PSQLException", 'FATAL: database "lake" does not exist')]),
    (Reason.CONFLICT, True, [(f"{ICEBERG}.CommitFailedException", "Failed to update table cold.t")]),
    (Reason.CONFLICT, True, [(RUNTIME, "wrapped"), (f"{ICEBERG}.ValidationException", "Missing required files")]),
    (Reason.CLOCK_SKEW, False, [(S3, "The difference between the request time and the server's time is too large. "
                                     "(Service: S3, Status Code: 403, Request ID: 1)")]),
    (Reason.CLOCK_SKEW, False, [(GLUE, "Signature expired: 20260218T020000Z is now earlier than 20260218T021000Z")]),
    (Reason.ACCESS_DENIED, False, [(S3, "Forbidden (Service: S3, Status Code: 403, Request ID: 1)")]),
    (Reason.ACCESS_DENIED, True, [(S3, "The provided token has expired. (Service: S3, Status Code: 400)")]),
    (Reason.ACCESS_DENIED, False, [(f"{ICEBERG}.ForbiddenException", "Forbidden: no")]),
    (Reason.ACCESS_DENIED, False, [("org.postgresql.util.PSQLException", "FATAL: no pg_hba.conf entry for host")]),
    (Reason.ACCESS_DENIED, False, [("java.io.FileNotFoundException", "/warehouse/t (Permission denied)")]),
    (Reason.FILE_MISSING, False, [(f"{ICEBERG}.NotFoundException", "Location does not exist: s3://w/f.parquet")]),
    (Reason.METADATA_MISSING, False, [(f"{ICEBERG}.NotFoundException", "Location does not exist: s3://w/1.metadata.json")]),
    (
        Reason.METADATA_MISSING,
        False,
        [(f"{ICEBERG}.ValidationException", "Metadata file for version 412 is missing under file:/w/cold/t")],
    ),
    (
        Reason.METADATA_CORRUPT,
        False,
        [
            (f"{ICEBERG}.RuntimeIOException", "Failed to read file: file:/w/cold/t/metadata/v2.metadata.json"),
            (f"{JACKSON}.exc.MismatchedInputException", "No content to map due to end-of-input"),
        ],
    ),
    (
        Reason.STORAGE_DOWN,
        True,
        [
            (f"{ICEBERG}.RuntimeIOException", "Failed to read file: s3://w/cold/t/metadata/v2.metadata.json"),
            ("java.io.IOException", "Input/output error"),
        ],
    ),
    (
        Reason.CATALOG_DOWN,
        True,
        [
            (f"{ICEBERG}.RESTException", "Received a success response code of 200, but failed to parse response body"),
            (f"{JACKSON}.exc.MismatchedInputException", "No content to map due to end-of-input"),
        ],
    ),
    (
        Reason.METADATA_CORRUPT,
        False,
        [("java.lang.IllegalArgumentException", "Cannot parse missing int: format-version")],
    ),
    (Reason.CATALOG_DOWN, True, [(GLUE, "Rate exceeded (Service: Glue, Status Code: 400)")]),
    (Reason.STORAGE_DOWN, True, [(S3, "Reduce your request rate. (Service: S3, Status Code: 503, Request ID: 1)")]),
    (Reason.STORAGE_DOWN, True, [(SDK, "Unable to execute HTTP request: Connect to 127.0.0.1:1 failed")]),
    (Reason.CATALOG_DOWN, True, [(f"{ICEBERG}.ServiceUnavailableException", "Service unavailable")]),
    (Reason.CATALOG_DOWN, True, [(f"{ICEBERG}.RESTException", "Unable to process (code: 502, type: null)")]),
    (Reason.CATALOG_DOWN, True, [("org.apache.iceberg.jdbc.UncheckedSQLException", "Failed to connect")]),
    (Reason.DISK_LOW, True, [(SPARK, "Job aborted"), ("java.io.IOException", "No space left on device")]),
    (Reason.STORAGE_DOWN, True, [(f"{ICEBERG}.RuntimeIOException", "Input/output error")]),
    (
        Reason.FILE_CORRUPT,
        False,
        [
            ("org.apache.iceberg.exceptions.RuntimeIOException", "Failed to get ORC rows for file: s3://w/a.orc"),
            ("java.lang.IllegalArgumentException", "Buffer size too small. size = 262144 needed = 8388543 in footer"),
        ],
    ),
    (Reason.FILE_CORRUPT, False, [(SPARK, "Job aborted"), ("com.github.luben.zstd.ZstdIOException", "Unknown frame")]),
    (
        Reason.FILE_CORRUPT,
        False,
        [
            ("java.io.IOException", "can not read class org.apache.iceberg.shaded.org.apache.parquet.format.Page"),
            ("org.apache.parquet.thrift.TProtocolException", "Required field 'type' was not found"),
        ],
    ),
    *(
        (Reason.FILE_CORRUPT, False, [(SPARK, "Job aborted"), ("java.lang.RuntimeException", message)])
        for message in (
            "footer is too large: 3246154361to be read",
            "corrupted file: the footer index is not within the file: 12",
            "s3://w/a.parquet is not a Parquet file. Expected magic number at tail, but found [80, 1, 2, 3]",
        )
    ),
    (Reason.FILE_CORRUPT, False, [("org.apache.avro.AvroRuntimeException", "java.io.IOException: Invalid sync!")]),
    (Reason.FILE_CORRUPT, False, [("org.apache.hadoop.fs.ChecksumException", "Checksum error: file:/a.parquet at 0")]),
    # What the network did to a reader says nothing of the file.
    (
        Reason.STORAGE_DOWN,
        True,
        [("org.apache.avro.AvroRuntimeException", "reading"), ("java.net.SocketException", "Connection reset")],
    ),
    (
        Reason.STORAGE_DOWN,
        True,
        [
            ("org.apache.parquet.io.ParquetDecodingException", "could not read page"),
            ("software.amazon.awssdk.core.exception.SdkClientException", "Unable to execute HTTP request"),
        ],
    ),
    (
        Reason.STORAGE_DOWN,
        True,
        [
            ("com.google.protobuf.InvalidProtocolBufferException", "While parsing"),
            ("javax.net.ssl.SSLException", "closed"),
        ],
    ),
    (Reason.UNEXPECTED, False, [("java.lang.NullPointerException", None)]),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "again", "links"), CASES)
def test_an_exception_has_its_reason(reason: Reason, again: bool, links: list[tuple[str, str | None]]) -> None:
    error = translate(raised(*links), "cold.t")
    assert error.reason is reason
    assert isinstance(error, TransientError if again else PermanentError)
    assert str(error).startswith("cold.t: ")
    assert "None" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        Py4JNetworkError("Answer from Java side is empty"),
        Py4JError("An error occurred: Answer from Java side is empty"),
        Py4JError("java.lang.Thread.interrupted does not exist in the JVM"),
        Py4JError("An error occurred while calling o249.size"),
        ConnectionRefusedError(),
    ],
)
def test_a_connection_that_breaks_means_that_the_jvm_is_gone(error: Exception) -> None:
    assert translate(error).reason is Reason.ENGINE_DOWN


def test_what_java_says_of_a_call_that_it_does_not_know_comes_from_a_jvm_that_lives() -> None:
    error = Py4JError("An error occurred while calling o2.size. Trace:\nMethod size([]) does not exist\n")
    assert translate(error).reason is Reason.UNEXPECTED


def test_the_message_is_of_the_error_itself_and_not_of_one_that_quotes_it() -> None:
    advice = "Cannot commit rewrite because of a ValidationException or CommitFailedException. Set partial-progress"
    error = translate(raised((RUNTIME, advice), (f"{ICEBERG}.ValidationException", "Missing required files: s3://w/f")))
    assert error.args == ("ValidationException: Missing required files: s3://w/f",)


def test_the_message_names_the_root_of_a_chain_too() -> None:
    refused = "Connect to http://catalog:8181 failed: Connection refused"
    error = translate(
        raised((f"{ICEBERG}.RESTException", "Error occurred while processing GET request"), (RUNTIME, refused))
    )
    message = f"RESTException: Error occurred while processing GET request (RuntimeException: {refused})"
    assert error.args == (message,)


def test_a_root_that_says_nothing_is_left_out() -> None:
    links = ("org.postgresql.util.PSQLException", "An I/O error occurred"), ("java.io.EOFException", None)
    assert translate(raised(*links)).args == ("PSQLException: An I/O error occurred",)


@pytest.mark.parametrize("before", [0, 380])
def test_secrets_are_hidden_before_a_message_is_cut(before: int) -> None:
    url = "jdbc:postgresql://icekeeper:s3cr3t-w0rd@db/x?password=s3cr3t-w0rd"
    message = f"Failed to connect:{' ' * 0}{'.' * before} {url}"
    error = translate(raised(("org.apache.iceberg.jdbc.UncheckedSQLException", message)))
    assert "s3cr3t" not in str(error)
    assert len(str(error)) <= 400
