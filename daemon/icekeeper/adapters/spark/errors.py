"""Exceptions from the JVM (Spark, Iceberg, S3, JDBC) translated into `core.errors`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark.errors import PySparkException
from pyspark.errors.exceptions.captured import CapturedException

from icekeeper.core.errors import CredentialsExpired, IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.secrets import hide_in_text

_CORRUPT = Reason.FILE_CORRUPT
# (pattern over "class: message" of one link of the cause chain, reason, is it worth another try?)
_RULES: tuple[tuple[re.Pattern[str], Reason, bool], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), reason, again)
    for pattern, reason, again in (
        (r"CommitStateUnknownException", Reason.COMMIT_UNKNOWN, True),
        # RemoveSnapshots raises this when it retries a commit that has landed: the snapshots that it names are gone.
        (r"arraySize cannot be negative", Reason.COMMIT_UNKNOWN, True),
        (r"OutOfMemoryError|Java heap space|GC overhead limit", Reason.ENGINE_OUT_OF_MEMORY, True),
        (r"NoSuchTableException|NoSuchNamespaceException|TABLE_OR_VIEW_NOT_FOUND", Reason.TABLE_NOT_FOUND, False),
        # A JDBC catalog into which no table was ever written: it lacks even its own tables.
        (r"\biceberg_tables\b.* exist|no such table: iceberg_tables", Reason.TABLE_NOT_FOUND, False),
        (r"FATAL: database .* does not exist|Unknown database", Reason.CATALOG_DOWN, False),
        # Before the refusals: a store also refuses a request with a wrong time.
        (r"RequestTimeTooSkewed|request time and the .{0,20}time is too large", Reason.CLOCK_SKEW, False),
        (r"Signature (?:expired|not yet current)", Reason.CLOCK_SKEW, False),
        # A Hadoop catalog's hint names a version that is not there; another catalog's entry a file that is not.
        (r"Metadata file for version \d+ is missing", Reason.METADATA_MISSING, False),
        (r"(?:NotFoundException|NoSuchKey|FileNotFound).*\.metadata\.json", Reason.METADATA_MISSING, False),
        (
            r"IllegalArgumentException: Cannot parse (?:missing \w+:|\w+ from (?:a )?non-)",
            Reason.METADATA_CORRUPT,
            False,
        ),
        (r"CommitFailedException|iceberg\.exceptions\.ValidationException", Reason.CONFLICT, True),
        (r"Still referenced by refs", Reason.CONFLICT, True),
        (r"NotAuthorizedException|ForbiddenException|AccessControlException", Reason.ACCESS_DENIED, False),
        (r"password authentication failed|no password was provided|permission denied", Reason.ACCESS_DENIED, False),
        (r"no pg_hba\.conf entry|AccessDenied", Reason.ACCESS_DENIED, False),
        (r"\(Service: S3, Status Code: 40[13]|InvalidAccessKeyId|SignatureDoesNotMatch", Reason.ACCESS_DENIED, False),
        (r"Unable to load credentials", Reason.ACCESS_DENIED, False),
        (r"NotFoundException|NoSuchKey|FileNotFound", Reason.FILE_MISSING, False),
        (r"awssdk\.services\.(?:glue|dynamodb)\.", Reason.CATALOG_DOWN, True),
        (r"awssdk.*(?:Exception|Error)", Reason.STORAGE_DOWN, True),
        (r"PSQLException|SQLException|SQLTransientConnectionException|SQLNonTransient", Reason.CATALOG_DOWN, True),
        (r"iceberg\.exceptions\.(?:RESTException|Service\w+Exception)|TTransportException", Reason.CATALOG_DOWN, True),
        (r"NoRouteToHost|UnknownHostException|java\.net\.Connect|SocketTimeout", Reason.CATALOG_DOWN, True),
        (r"No space left on device", Reason.DISK_LOW, True),
        # A reader wraps what the store did to it: only what is none of the above is in the file.
        (
            r"java\.net\.Socket|SSLException|Connection reset|ConnectionClosed|Premature end of",
            Reason.STORAGE_DOWN,
            True,
        ),
        # Readers of Parquet, ORC and Avro, their codecs, and Hadoop's checksums beside local files.
        (
            r"ParquetDecodingException|is not a Parquet file|can ?not read class org\.apache\.\S*parquet",
            _CORRUPT,
            False,
        ),
        (
            r"InvalidProtocolBufferException|Malformed ORC|orc\.FileFormatException|Buffer size too small\.",
            _CORRUPT,
            False,
        ),
        (r"footer is too large|footer index is not within the file", _CORRUPT, False),
        (r"AvroRuntimeException|InvalidAvroMagic|Not an? Avro data file|Invalid sync!", _CORRUPT, False),
        (r"ZstdException|ZstdIOException|SnappyError|DataFormatException|ChecksumException", _CORRUPT, False),
        (r"RuntimeIOException|java\.io\.IOException|UncheckedIOException", Reason.STORAGE_DOWN, True),
    )
)
# AWS's codes for temporary credentials, and messages of REST catalogs about a token that ran out.
_EXPIRED = re.compile(
    r"ExpiredToken|RequestExpired|token (?:has |is )?expired|credentials? (?:have|has|is|are) expired", re.I
)
# A metadata file that could be read and holds something else: broken JSON, a broken archive, a wrong checksum.
_METADATA_READ = re.compile(r"Failed to read file: .*\.metadata\.json")
_NO_DOCUMENT = re.compile(r"^\S*(?:\.jackson\.\S+|ZipException|EOFException|ChecksumException): ")
_MAX_LINKS = 20
_MAX_MESSAGE = 400


def translate(error: BaseException, where: str | None = None) -> IcekeeperError:
    """The error of ours for what a call into the JVM raised; the caller raises it `from` the original."""
    if isinstance(error, IcekeeperError):
        return error
    if is_engine_gone(error):
        return TransientError(f"the JVM is gone ({type(error).__name__})", reason=Reason.ENGINE_DOWN, where=where)
    links = list(_chain(error))
    if expired := [link for link in links if _EXPIRED.search(link)]:
        return CredentialsExpired(_message(_most_specific(_EXPIRED, expired), _root(links)), where=where)
    if any(_METADATA_READ.search(link) for link in links) and any(_NO_DOCUMENT.search(link) for link in links):
        return PermanentError(_message(links[0], _root(links)), reason=Reason.METADATA_CORRUPT, where=where)
    for pattern, reason, again in _RULES:
        matching = [link for link in links if pattern.search(link)]
        if matching:
            kind = TransientError if again else PermanentError
            return kind(_message(_most_specific(pattern, matching), _root(links)), reason=reason, where=where)
    return PermanentError(_message(_root(links)), reason=Reason.UNEXPECTED, where=where)


def _most_specific(pattern: re.Pattern[str], links: list[str]) -> str:
    """The outermost link whose class matches, rather than one whose message only quotes it."""
    return next((link for link in links if pattern.search(link.partition(": ")[0])), links[0])


def _root(links: list[str]) -> str:
    """The innermost link that has a message."""
    return next((link for link in reversed(links) if link.partition(": ")[2].strip()), links[-1])


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


def _chain(error: BaseException) -> Iterator[str]:
    """The links of a cause chain, outermost first, each as `class: message`."""
    throwable = None
    if isinstance(error, Py4JJavaError):
        throwable = error.java_exception
    elif isinstance(error, CapturedException):
        throwable = error._origin
    if throwable is None:
        text = error.getMessage() if isinstance(error, PySparkException) else str(error)
        yield f"{type(error).__name__}: {text}"
        return
    for _ in range(_MAX_LINKS):
        if throwable is None:
            return
        yield f"{throwable.getClass().getName()}: {throwable.getMessage() or ''}"
        throwable = throwable.getCause()


def _message(link: str, root: str | None = None) -> str:
    """A link in one line, and the root of its chain where that adds to it: `RESTException: ... (...: refused)`."""
    text = _line(link)
    if root is not None and root != link and (cause := _line(root)) not in text:
        text = f"{text} ({cause})"
    return text


def _line(link: str) -> str:
    name, _, text = link.partition(": ")
    first = text.strip().splitlines()[0] if text.strip() else ""
    # A JDBC URL or a signed URL may hold a secret. Hidden before the text is cut: half a URL is not recognised.
    return hide_in_text(f"{name.rpartition('.')[2]}: {first}".removesuffix(": "))[:_MAX_MESSAGE]
