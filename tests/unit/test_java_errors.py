"""What exceptions of the JVM mean: their reasons, whether they are tried again, and their messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError

from icekeeper.adapters.spark.errors import translate
from icekeeper.core.errors import PermanentError, SessionSpent, TransientError
from icekeeper.core.reasons import Reason

ICEBERG = "org.apache.iceberg.exceptions"
S3 = "software.amazon.awssdk.services.s3.model.S3Exception"
GLUE = "software.amazon.awssdk.services.glue.model.GlueException"
SDK = "software.amazon.awssdk.core.exception.SdkClientException"
SPARK = "org.apache.spark.SparkException"
JACKSON = "org.apache.iceberg.shaded.com.fasterxml.jackson.databind"
RUNTIME = "java.lang.RuntimeException"
HADOOP = "org.apache.hadoop"
DECODING, COMMIT_FAILED = "org.apache.parquet.io.ParquetDecodingException", f"{ICEBERG}.CommitFailedException"
ABFS = "org.apache.hadoop.fs.azurebfs.contracts.exceptions.AbfsRestOperationException"


# What real parts have raised, and the classes above each class, as a JVM with all their jars has them.
FAILURES = json.loads(Path(__file__).with_name("java_failures.json").read_text())
PACKAGES = ("org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0", "org.apache.iceberg:iceberg-aws-bundle:1.12.0")
KINDS = {"never": PermanentError, "later": TransientError, "renewed": SessionSpent}


@dataclass
class Class:
    """As much of a java.lang.Class."""

    name: str

    def getName(self) -> str:
        return self.name

    def getSuperclass(self) -> Class | None:
        above = FAILURES["classes"].get(self.name)
        return Class(above) if above else None


@dataclass
class Throwable:
    """As much of a java.lang.Throwable as a translation reads, and of those that have a code."""

    name: str
    message: str | None
    cause: Throwable | None = None
    state: str | None = None
    code: str | None = None
    status: int = 0
    frames: tuple[str, ...] = ()
    _target_id: str = "o1"

    def getClass(self) -> Class:
        return Class(self.name)

    def getMessage(self) -> str | None:
        return self.message

    def getCause(self) -> Throwable | None:
        return self.cause

    def getStackTrace(self) -> tuple[str, ...]:
        return self.frames

    def getSQLState(self) -> str | None:
        return self.state

    def awsErrorDetails(self) -> Throwable | None:
        return self if self.code else None

    def errorCode(self) -> str | None:
        return self.code

    def statusCode(self) -> int:
        return self.status

    def getReason(self) -> str | None:
        return self.code

    def getCode(self) -> int:
        return self.status


def raised(*links: tuple[str, str | None], **facts: Any) -> Py4JJavaError:
    """What py4j raises for a chain of causes, the outermost first; `facts` are the root's."""
    throwable: Throwable | None = None
    for name, message in reversed(links):
        throwable = Throwable(name, message, throwable, **({} if throwable else facts))
    return Py4JJavaError("An error occurred while calling o1.x.\n", throwable)


def captured(chain: list[dict[str, Any]]) -> Py4JJavaError:
    """What py4j raised for a chain that real parts have raised."""
    throwable: Throwable | None = None
    for one in reversed(chain):
        facts = {key: one.get(key) for key in ("state", "code")}
        throwable = Throwable(one["class"], one["message"], throwable, **facts, status=one.get("status", 0))
    return Py4JJavaError("An error occurred while calling o1.x.\n", throwable)


# What hides what happened: a class that says something else, or a reader that wraps what the store did.
HIDDEN = [
    (Reason.DISK_LOW, True, [("java.io.FileNotFoundException", "/tmp/x.parquet (No space left on device)")]),
    (Reason.ENGINE_DOWN, True, [("java.io.FileNotFoundException", "/w/x.parquet (Too many open files)")]),
    (Reason.ENGINE_DOWN, True, [(SPARK, "x"), ("java.io.FileNotFoundException", "/s/blockmgr-1f/temp_shuffle_9 (x)")]),
    (Reason.FILE_MISSING, False, [("java.io.FileNotFoundException", "File /spark-warehouse/a.parquet does not exist")]),
    (Reason.ENGINE_DOWN, False, [("org.xerial.snappy.SnappyError", "[FAILED_TO_LOAD_NATIVE_LIBRARY] no library")]),
    (Reason.ENGINE_DOWN, False, [("java.lang.UnsatisfiedLinkError", "/tmp/libsnappy.so: failed to map segment")]),
    (Reason.ENGINE_DOWN, False, [("java.lang.NoClassDefFoundError", "Could not initialize class org.xerial.X")]),
    (Reason.CONFLICT, True, [(f"{ICEBERG}.ValidationException", "Found conflicting files that can contain records")]),
    (Reason.CONFLICT, True, [(f"{ICEBERG}.ValidationException", "Cannot commit, found new position delete for x")]),
    (Reason.GC_DISABLED, False, [(f"{ICEBERG}.ValidationException", "Cannot expire snapshots: GC is disabled")]),
    (Reason.UNEXPECTED, False, [(f"{ICEBERG}.ValidationException", "Cannot find field 'x' in struct")]),
    (Reason.ACCESS_DENIED, False, [(COMMIT_FAILED, "x"), (f"{HADOOP}.security.AccessControlException", "no")]),
    (Reason.STORAGE_DOWN, True, [(DECODING, "x"), (f"{HADOOP}.hdfs.BlockMissingException", "no")]),
    (Reason.ACCESS_DENIED, True, [(f"{HADOOP}.security.token.SecretManager$InvalidToken", "token (x) is expired")]),
    (Reason.ACCESS_DENIED, False, [(ABFS, 'Operation failed: "It is not authorized", 403, GET, https://a/')]),
    (Reason.STORAGE_DOWN, False, [(ABFS, 'x: "The filesystem does not exist.", 404, GET, https://a')]),
    (Reason.CATALOG_DOWN, False, [("javax.net.ssl.SSLHandshakeException", "PKIX path building failed: no")]),
    (Reason.ENGINE_DOWN, True, [(SPARK, "Could not execute broadcast in 300 secs")]),
    (Reason.TABLE_NOT_FOUND, False, [("java.sql.SQLException", "Invalid object name 'iceberg_tables'.")]),
]  # fmt: skip


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


@pytest.mark.parametrize(("reason", "again", "links"), [*CASES, *HIDDEN])
def test_an_exception_has_its_reason(reason: Reason, again: bool, links: list[tuple[str, str | None]]) -> None:
    error = translate(raised(*links), "cold.t")
    assert error.reason is reason
    assert isinstance(error, TransientError if again else PermanentError)
    assert str(error).startswith("cold.t: ")
    assert "None" not in str(error)


@pytest.mark.parametrize("failure", FAILURES["failures"], ids=lambda failure: failure["case"])
def test_what_real_parts_have_raised_has_its_reason(failure: dict[str, Any]) -> None:
    error = translate(captured(failure["chain"]), "cold.t", PACKAGES)
    assert (error.reason, type(error)) == (failure["reason"], KINDS[failure["retry"]])


@pytest.mark.parametrize(
    ("state", "reason", "kind"),
    [
        ("08001", Reason.CATALOG_DOWN, TransientError),
        ("08006", Reason.CATALOG_DOWN, TransientError),
        ("08S01", Reason.CATALOG_DOWN, TransientError),
        ("53300", Reason.CATALOG_DOWN, TransientError),
        ("57P01", Reason.CATALOG_DOWN, TransientError),
        ("25006", Reason.CATALOG_DOWN, TransientError),
        (None, Reason.CATALOG_DOWN, TransientError),
        ("3D000", Reason.CATALOG_DOWN, PermanentError),
        ("28000", Reason.ACCESS_DENIED, PermanentError),
        ("28P01", Reason.ACCESS_DENIED, PermanentError),
        ("42501", Reason.ACCESS_DENIED, PermanentError),
        ("42P01", Reason.TABLE_NOT_FOUND, PermanentError),
        ("42S02", Reason.TABLE_NOT_FOUND, PermanentError),
        ("40001", Reason.CONFLICT, TransientError),
        ("40P01", Reason.CONFLICT, TransientError),
        ("23505", Reason.CONFLICT, TransientError),
        ("42703", Reason.UNEXPECTED, PermanentError),
        ("0A000", Reason.UNEXPECTED, PermanentError),
    ],
)
def test_the_state_of_an_sql_exception_counts_whatever_its_words(
    state: str | None, reason: Reason, kind: type[Exception]
) -> None:
    links = ("org.apache.iceberg.jdbc.UncheckedSQLException", "Failed"), ("org.postgresql.util.PSQLException", "raté")
    error = translate(raised(*links, state=state))
    assert (error.reason, type(error)) == (reason, kind)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("com.acme.CacheNotFoundException", "no entry"),
        ("com.acme.NotAuthorizedExceptions", "none"),
        ("com.acme.ParquetDecodingExceptionHandler", None),
        ("org.apache.spark.SparkException", "see ValidationException and AccessControlExceptional in the guide"),
    ],
)
def test_a_class_whose_name_only_holds_anothers_is_not_that(name: str, message: str | None) -> None:
    assert translate(raised((name, message))).reason is Reason.UNEXPECTED


def test_causes_are_followed_to_the_root() -> None:
    deep = [(RUNTIME, f"wrapped {number}") for number in range(60)]
    assert translate(raised(*deep, (f"{ICEBERG}.CommitFailedException", "moved"))).reason is Reason.CONFLICT


def test_a_chain_that_is_a_circle_ends() -> None:
    circle = Throwable(RUNTIME, "round")
    circle.cause = Throwable(RUNTIME, "and round", circle)
    assert translate(Py4JJavaError("x", circle)).reason is Reason.UNEXPECTED


def test_what_an_executor_raised_is_read_from_the_text_in_which_spark_reports_it() -> None:
    text = (
        "Job aborted due to stage failure: Task 0 in stage 3.0 failed 4 times, most recent failure: Lost task 0.3 in "
        "stage 3.0 (TID 9) (10.0.0.7 executor 2): org.apache.iceberg.exceptions.RuntimeIOException: a read failed\n"
        "\tat org.apache.iceberg.parquet.ParquetReader.next(ParquetReader.java:1)\n"
        "Caused by: software.amazon.awssdk.services.s3.model.S3Exception: Forbidden (Service: S3, Status Code: 403, "
        "Request ID: 1)\n\tat software.amazon.awssdk.Response.handle(Response.java:1)\n\t... 12 more\n\nDriver stack:"
    )
    error = translate(raised((SPARK, text)))
    assert error.reason is Reason.ACCESS_DENIED
    assert "S3Exception: Forbidden" in str(error)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (
            "software.amazon.awssdk.services.glue.DefaultGlueClient.getTable(DefaultGlueClient.java:1)",
            Reason.CATALOG_DOWN,
        ),
        ("software.amazon.awssdk.services.s3.DefaultS3Client.getObject(DefaultS3Client.java:1)", Reason.STORAGE_DOWN),
        ("org.apache.hadoop.fs.FileSystem.exists(FileSystem.java:1)", Reason.STORAGE_DOWN),
        ("org.apache.iceberg.rest.HTTPClient.execute(HTTPClient.java:1)", Reason.CATALOG_DOWN),
    ],
)
@pytest.mark.parametrize(
    "link",
    [
        (SDK, "Unable to execute HTTP request: Connect to 127.0.0.1:1 failed"),
        ("java.net.UnknownHostException", "no.such.host"),
        ("java.net.SocketTimeoutException", "Read timed out"),
        ("java.net.SocketException", "Connection reset"),
        ("java.lang.IllegalStateException", "Connection pool shut down"),
    ],
)  # fmt: skip
def test_what_both_catalog_and_store_can_raise_is_known_by_its_stack(
    link: tuple[str, str], frame: str, reason: Reason
) -> None:
    assert (
        translate(raised((RUNTIME, "wrapped"), link, frames=("java.net.Socket.read(S.java:1)", frame))).reason is reason
    )


BUNDLED = ", ".join(PACKAGES)


@pytest.mark.parametrize(
    ("case", "advice"),
    [
        ("driver jdbc:sqlite:/tmp/x.db", f"write spark.packages: [{BUNDLED}, org.xerial:sqlite-jdbc:3.51.2.0]"),
        ("driver jdbc:mysql://127.0.0.1:1/x", f"write spark.packages: [{BUNDLED}, com.mysql:mysql-connector-j:9.5.0]"),
        ("io org.apache.iceberg.gcp.gcs.GCSFileIO",
         f"write spark.packages: [{BUNDLED}, org.apache.iceberg:iceberg-gcp-bundle:1.12.0]"),
        ("io org.apache.iceberg.azure.adlsv2.ADLSFileIO",
         f"write spark.packages: [{BUNDLED}, org.apache.iceberg:iceberg-azure-bundle:1.12.0]"),
        ("scheme s3a://b/x", f"write spark.packages: [{BUNDLED}, org.apache.hadoop:hadoop-aws:3.4.2]"),
        ("scheme s3://b/x", "write catalog.properties: {io-impl: org.apache.iceberg.aws.s3.S3FileIO}"),
        ("scheme gs://b/x", "write catalog.properties: {io-impl: org.apache.iceberg.gcp.gcs.GCSFileIO}, and write "
         f"spark.packages: [{BUNDLED}, org.apache.iceberg:iceberg-gcp-bundle:1.12.0]"),
        ("plugin", "name the package that has it in spark.packages, in the version that fits the others"),
    ],
)  # fmt: skip
def test_a_jar_that_is_missing_comes_with_the_line_to_write(case: str, advice: str) -> None:
    (chain,) = [failure["chain"] for failure in FAILURES["failures"] if failure["case"] == case]
    assert str(translate(captured(chain), "cold.t", PACKAGES)).endswith(f"; {advice}")


def test_who_names_jars_is_asked_for_a_jar() -> None:
    error = translate(
        raised(("java.lang.NoClassDefFoundError", "com/google/auth/Credentials")), jars=("/x/iceberg.jar",)
    )
    assert str(error).endswith("; add the jar of org.apache.iceberg:iceberg-gcp-bundle:1.12.0 to spark.jars")


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
