"""What each exception class means that a night can meet: one table, read from the top for the whole chain of causes.

Class names are whole and hold for their subclasses; one that ends in a dot is a package. The conditions beside them
hold for the same cause.
"""

from __future__ import annotations

from collections.abc import Sequence

from icekeeper.adapters.spark.failures.causes import Cause
from icekeeper.adapters.spark.failures.rule import Retry, Rule, rule
from icekeeper.core.reasons import Reason

COMMIT_UNKNOWN = "org.apache.iceberg.exceptions.CommitStateUnknownException"
_NEVER, _LATER, _RENEWED = Retry
_ICEBERG = "org.apache.iceberg.exceptions."
_AWS = "software.amazon.awssdk.awscore.exception.AwsServiceException software.amazon.awssdk.services."
_GOOGLE = "com.google.cloud.BaseServiceException com.google.api.client.http.HttpResponseException"
_ABFS = "org.apache.hadoop.fs.azurebfs.contracts.exceptions.AbfsRestOperationException"
_AZURE = f"com.azure.core.exception.HttpResponseException {_ABFS}"
_HIVE = "org.apache.hadoop.hive.metastore.api."
_SQL = "java.sql.SQLException"
_REST = f"{_ICEBERG}RESTException org.projectnessie.client.http.HttpClientException"
_HTTP = f"{_AWS} {_GOOGLE} {_AZURE} {_REST}"
_IO = "java.io.IOException java.io.UncheckedIOException"
# AWS's codes, of all its services, for credentials that have run out, and for those that are refused.
_EXPIRED = r"ExpiredToken(?:Exception)?|TokenRefreshRequired|RequestExpired|ExpiredTradeInTokenException"
_REFUSED = (
    r"AccessDenied(?:Exception)?|AllAccessDisabled|AccountProblem|InvalidAccessKeyId|InvalidAccessKey|InvalidTokenId|InvalidToken"
    r"|InvalidClientTokenId|UnrecognizedClientException|SignatureDoesNotMatch|InvalidSignatureException|IncompleteSignature(?:Exception)?"
    r"|MissingAuthenticationToken(?:Exception)?|MissingSecurityHeader|AuthFailure|NotSignedUp|OptInRequired|Unauthorized(?:\w*)?"
    r"|InvalidIdentityToken(?:Exception)?|IDPRejectedClaim|InvalidSecurity|KMS\.DisabledException|NotAuthorized(?:\w*)?"
)

RULES: tuple[Rule, ...] = (
    rule(Reason.COMMIT_UNKNOWN, _LATER, COMMIT_UNKNOWN),
    # RemoveSnapshots raises this when it retries a commit that has landed: the snapshots that it names are gone.
    rule(Reason.COMMIT_UNKNOWN, _LATER, "java.lang.IllegalArgumentException", message="arraySize cannot be negative"),
    rule(Reason.SNAPSHOT_EXPIRED, _LATER, message=r"Cannot find snapshot with ID"),
    # --- memory: the heap's, Netty's, Spark's and Arrow's. What an executor ran out of, Spark only reports.
    rule(
        Reason.ENGINE_OUT_OF_MEMORY, _RENEWED,
        "java.lang.OutOfMemoryError org.apache.arrow.memory.OutOfMemoryException",
        "org.apache.arrow.vector.util.OversizedAllocationException io.netty.util.internal.OutOfDirectMemoryError",
        "org.apache.spark.memory.SparkOutOfMemoryError",
    ),
    rule(
        Reason.ENGINE_OUT_OF_MEMORY, _LATER,
        message=r"ExecutorLostFailure.*(?:exceeding|exit(?:ed with)? code (?:52|137|143)\b)",
    ),
    # --- this host: Java raises a missing file for them, too
    rule(Reason.DISK_LOW, _LATER, message="No space left on device|Disk quota exceeded"),
    rule(Reason.ENGINE_DOWN, _RENEWED, message="Too many open files"),
    rule(
        Reason.ENGINE_DOWN, _RENEWED, "java.io.FileNotFoundException java.nio.file.NoSuchFileException",
        message=r"/blockmgr-[0-9a-f]|/temp_shuffle_|/shuffle_\d+_\d+_\d+\.(?:data|index)",
    ),
    # Snappy's own library does not load: no file is to blame.
    rule(Reason.ENGINE_DOWN, _NEVER, "org.xerial.snappy.SnappyError java.lang.UnsatisfiedLinkError"),
    rule(Reason.ENGINE_DOWN, _NEVER, "java.lang.NoClassDefFoundError", message="^Could not initialize class"),
    # --- jars
    rule(
        Reason.JAR_MISSING, _NEVER,
        "java.lang.ClassNotFoundException java.lang.NoSuchMethodError java.lang.NoSuchFieldError",
        "java.lang.UnsupportedClassVersionError java.lang.AbstractMethodError java.lang.IncompatibleClassChangeError",
        "org.apache.hadoop.fs.UnsupportedFileSystemException java.util.ServiceConfigurationError",
    ),
    rule(Reason.JAR_MISSING, _NEVER, "java.lang.NoClassDefFoundError", message=r"^(?!Could not initialize class)"),
    rule(Reason.JAR_MISSING, _NEVER, message=r"Missing \S+ \[java\.lang\.(?:ClassNotFound|NoClassDefFound)\w+: "),
    rule(Reason.JAR_MISSING, _NEVER, _SQL, message=r"^No suitable driver"),
    rule(Reason.JAR_MISSING, _NEVER, "org.apache.spark.SparkException", message=r"^Cannot find catalog plugin class"),
    # --- tables
    rule(
        Reason.TABLE_NOT_FOUND, _NEVER,
        f"{_ICEBERG}NoSuchTableException {_ICEBERG}NoSuchNamespaceException {_ICEBERG}NoSuchIcebergTableException",
        f"{_ICEBERG}NoSuchWarehouseException org.apache.spark.sql.catalyst.analysis.NoSuchTableException",
        "org.apache.spark.sql.catalyst.analysis.NoSuchNamespaceException",
        "org.apache.spark.sql.catalyst.analysis.NoSuchDatabaseException",
        f"{_HIVE}NoSuchObjectException {_HIVE}UnknownDBException {_HIVE}UnknownTableException",
        "org.projectnessie.error.NessieNotFoundException",
        "software.amazon.awssdk.services.glue.model.EntityNotFoundException",
        "software.amazon.awssdk.services.dynamodb.model.ResourceNotFoundException",
    ),
    rule(
        Reason.TABLE_NOT_FOUND, _NEVER, "org.apache.spark.sql.AnalysisException",
        message=r"^\[(?:TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|CATALOG_NOT_FOUND)\]",
    ),
    # A JDBC catalog into which no table was ever written: it lacks even its own tables.
    rule(Reason.TABLE_NOT_FOUND, _NEVER, _SQL, code="42P01|42S02"),
    rule(Reason.TABLE_NOT_FOUND, _NEVER, message=r"\biceberg_tables\b.* exist|no such table: iceberg_tables"),
    rule(Reason.TABLE_NOT_FOUND, _NEVER, message="Invalid object name 'iceberg_tables'"),
    rule(Reason.CATALOG_DOWN, _NEVER, _SQL, code="3D000"),
    rule(Reason.CATALOG_DOWN, _NEVER, message=r"FATAL: database .* does not exist|Unknown database"),
    # --- clocks, before the refusals: a store also refuses a request with a wrong time
    rule(Reason.CLOCK_SKEW, _NEVER, code=r"RequestTimeTooSkewed|RequestInTheFuture"),
    rule(Reason.CLOCK_SKEW, _NEVER, message=r"request time and the .{0,20}time is too large"),
    rule(Reason.CLOCK_SKEW, _NEVER, message=r"Signature (?:expired|not yet current)"),
    # --- credentials
    rule(Reason.ACCESS_DENIED, _RENEWED, code=_EXPIRED),
    rule(
        Reason.ACCESS_DENIED, _RENEWED,
        "software.amazon.awssdk.services.sts.model.ExpiredTokenException",
        "software.amazon.awssdk.services.ssooidc.model.ExpiredTokenException",
        "org.projectnessie.client.auth.oauth2.MustFetchNewTokensException",
        "org.apache.hadoop.security.token.SecretManager$InvalidToken",
    ),
    rule(Reason.ACCESS_DENIED, _RENEWED, _HTTP, status=(419,)),
    rule(
        Reason.ACCESS_DENIED, _RENEWED,
        message=r"token (?:has |is )?expired|credentials? (?:have|has|is|are) (?:expired|timed out)"
        r"|does not support refreshing the access token|\bTokenRefreshRequired\b|\bExpiredToken(?:Exception)?\b",
    ),
    # --- metadata. A Hadoop catalog's hint names a version that is not there; another's entry a file that is not.
    rule(Reason.METADATA_MISSING, _NEVER, message=r"Metadata file for version \d+ is missing"),
    rule(
        Reason.METADATA_MISSING, _NEVER,
        f"{_ICEBERG}NotFoundException java.io.FileNotFoundException java.nio.file.NoSuchFileException {_AWS}",
        status=(0, 404), message=r"^(?!.*permission denied).*\.metadata\.json",
    ),
    rule(
        Reason.METADATA_CORRUPT, _NEVER, "java.lang.IllegalArgumentException",
        message=r"^Cannot parse (?:missing \w+:|\w+ from (?:a )?non-)",
    ),
    # --- limits, which services say with the status of a refusal
    rule(Reason.STORAGE_DOWN, _LATER, f"{_AWS} {_GOOGLE}", code=r"(?i)\w*(?:rateLimitExceeded|quotaExceeded)"),
    # --- refusals
    rule(
        Reason.ACCESS_DENIED, _NEVER,
        f"{_ICEBERG}NotAuthorizedException {_ICEBERG}ForbiddenException java.nio.file.AccessDeniedException",
        "org.apache.hadoop.security.AccessControlException java.security.AccessControlException",
        "org.apache.hadoop.fs.s3a.auth.NoAuthWithAWSException",
        "org.apache.hadoop.fs.s3a.CredentialInitializationException",
        "org.apache.hadoop.security.KerberosAuthException javax.security.sasl.SaslException",
        "javax.security.auth.login.LoginException",
        "org.ietf.jgss.GSSException",
        "org.projectnessie.client.rest.NessieNotAuthorizedException org.projectnessie.error.NessieForbiddenException",
        "org.projectnessie.client.auth.oauth2.OAuth2Exception com.google.auth.oauth2.GoogleAuthException",
        "com.azure.core.exception.ClientAuthenticationException com.azure.identity.CredentialUnavailableException",
        "com.microsoft.aad.msal4j.MsalServiceException java.sql.SQLInvalidAuthorizationSpecException",
    ),
    rule(Reason.ACCESS_DENIED, _NEVER, _AWS, code=_REFUSED),
    # Google's 401 and 403, Azure's, those of REST catalogs in front of a gateway, and AWS's that have another word.
    rule(
        Reason.ACCESS_DENIED, _NEVER, _HTTP, status=(401, 403, 407),
        code=r"(?!InvalidObjectState|TooManyRequests).*",
    ),
    rule(Reason.ACCESS_DENIED, _NEVER, _SQL, code="28...|42501"),
    rule(
        Reason.ACCESS_DENIED, _NEVER,
        message=r"password authentication failed|no password was provided|permission denied|no pg_hba\.conf entry"
        r"|\bAccess ?Denied\b|Unable to load credentials"
        r"|: (?:invalid_client|invalid_grant|unauthorized_client|access_denied): "
        r"|Your default credentials were not found|Anonymous caller does not have",
    ),
    # --- other writers
    rule(
        Reason.CONFLICT, _LATER,
        f"{_ICEBERG}CommitFailedException",
        "org.apache.iceberg.RetryableValidationException org.apache.iceberg.hive.LockException",
        "org.projectnessie.error.NessieConflictException",
        "software.amazon.awssdk.services.glue.model.ConcurrentModificationException",
        "software.amazon.awssdk.services.dynamodb.model.ConditionalCheckFailedException",
        "software.amazon.awssdk.services.dynamodb.model.TransactionCanceledException",
        "software.amazon.awssdk.services.dynamodb.model.TransactionConflictException",
    ),
    # Iceberg says by one class what others changed and what can't be done at all.
    rule(
        Reason.CONFLICT, _LATER, f"{_ICEBERG}ValidationException",
        message=r"Found (?:new |conflicting )|conflicting|[Mm]issing (?:required |data )|Cannot commit|history between"
        r"|expired snapshot|Cannot determine",
    ),
    rule(Reason.GC_DISABLED, _NEVER, f"{_ICEBERG}ValidationException", message="GC is disabled"),
    rule(Reason.UNEXPECTED, _NEVER, f"{_ICEBERG}ValidationException"),
    rule(Reason.CONFLICT, _LATER, _SQL, code="40...|23..."),
    rule(Reason.CONFLICT, _LATER, message=r"Still referenced by refs"),
    # --- clients that were closed under their users
    rule(
        Reason.STORAGE_DOWN, _RENEWED,
        message=r"Connection pool shut down|Connection manager has been shut down|event executor terminated"
        r"|\bpool (?:has been|is) closed",
        shared=True,
    ),
    # --- stores that are not there: a name is wrong
    rule(
        Reason.STORAGE_DOWN, _NEVER, f"{_GOOGLE} {_AZURE}",
        message=r"(?i)(?:bucket|container|filesystem) does not exist|ContainerNotFound|FilesystemNotFound",
    ),
    # --- files
    rule(
        Reason.FILE_MISSING, _NEVER,
        f"{_ICEBERG}NotFoundException java.io.FileNotFoundException java.nio.file.NoSuchFileException",
        "software.amazon.awssdk.services.s3.model.NoSuchKeyException",
    ),
    rule(Reason.FILE_MISSING, _NEVER, _AWS, code="NoSuchKey"),
    rule(Reason.FILE_MISSING, _NEVER, f"{_GOOGLE} {_AZURE}", status=(404,)),
    rule(Reason.FILE_MISSING, _NEVER, "java.lang.NullPointerException", message=r"GCSInputFile\.getBlob\(\)"),
    # --- the cloud's services: a name, a region or an address is wrong, or it passes
    rule(
        Reason.STORAGE_DOWN, _NEVER, "software.amazon.awssdk.services.s3.",
        code="NoSuchBucket|PermanentRedirect|AuthorizationHeaderMalformed|InvalidBucketName|InvalidObjectState",
    ),
    rule(Reason.STORAGE_DOWN, _NEVER, "software.amazon.awssdk.", message="Unable to load region"),
    rule(
        Reason.CATALOG_DOWN, _LATER,
        "software.amazon.awssdk.services.glue. software.amazon.awssdk.services.dynamodb.",
        "software.amazon.awssdk.services.lakeformation. com.google.cloud.bigquery.",
    ),
    rule(Reason.STORAGE_DOWN, _LATER, "software.amazon.awssdk.services. org.apache.hadoop.fs.s3a. com.aliyun.oss."),
    rule(Reason.STORAGE_DOWN, _LATER, "software.amazon.awssdk.", shared=True),
    rule(Reason.STORAGE_DOWN, _LATER, f"{_GOOGLE} com.azure.core.exception.AzureException "),
    # --- catalogs. SQL's classes 42 and 0A are no fault of the connection.
    rule(Reason.UNEXPECTED, _NEVER, _SQL, code="42...|0A...|22..."),
    rule(
        Reason.CATALOG_DOWN, _LATER,
        f"{_SQL} org.apache.iceberg.jdbc.UncheckedSQLException org.apache.iceberg.jdbc.UncheckedInterruptedException",
    ),
    rule(Reason.UNEXPECTED, _NEVER, f"{_ICEBERG}BadRequestException {_ICEBERG}UnprocessableEntityException"),
    rule(Reason.UNEXPECTED, _NEVER, "org.apache.thrift.TApplicationException"),
    rule(Reason.CATALOG_DOWN, _NEVER, f"{_ICEBERG}RESTException", status=(404, 405, 406, 410, 421, 422)),
    rule(
        Reason.CATALOG_DOWN, _LATER,
        f"{_ICEBERG}RESTException org.apache.iceberg.rest.RemotePlanTimeoutException org.projectnessie.",
        "org.apache.iceberg.hive.RuntimeMetaException org.apache.thrift.TException",
        f"{_HIVE}MetaException",
    ),
    # --- the network
    rule(
        Reason.CATALOG_DOWN, _NEVER, "javax.net.ssl.SSLHandshakeException",
        message="PKIX path|unable to find valid certification path|No subject alternative", shared=True,
    ),
    rule(
        Reason.CATALOG_DOWN, _LATER,
        "java.net.NoRouteToHostException java.net.UnknownHostException java.net.ConnectException",
        "java.net.SocketTimeoutException java.nio.channels.UnresolvedAddressException", shared=True,
    ),
    # A reader wraps what the store did to it: only what is none of the above is in the file.
    rule(
        Reason.STORAGE_DOWN, _LATER,
        "java.net.SocketException javax.net.ssl.SSLException org.apache.http.ConnectionClosedException",
        "org.apache.hc.core5.http.ConnectionClosedException org.apache.hc.core5.http.NoHttpResponseException",
        shared=True,
    ),
    rule(Reason.STORAGE_DOWN, _LATER, message="Connection reset|Premature end of Content", shared=True),
    # --- Spark: what an executor or the session lost
    rule(
        Reason.ENGINE_DOWN, _LATER,
        "org.apache.spark.shuffle.FetchFailedException org.apache.spark.rpc.RpcTimeoutException",
        "org.apache.spark.shuffle.MetadataFetchFailedException",
    ),
    rule(Reason.ENGINE_DOWN, _LATER, "org.apache.spark.SparkException", message=r"ExecutorLostFailure|FetchFailed\("),
    rule(Reason.ENGINE_DOWN, _LATER, message=r"Could not execute broadcast in|Futures timed out after"),
    rule(
        Reason.ENGINE_DOWN, _RENEWED,
        message="Cannot call methods on a stopped SparkContext|SparkContext (?:has been|was) shut ?down",
    ),
    # --- what a reader wraps, and is not in the file
    rule(
        Reason.STORAGE_DOWN, _LATER,
        "org.apache.hadoop.hdfs. org.apache.hadoop.ipc. java.nio.channels.ClosedChannelException",
        "java.io.InterruptedIOException",
    ),
    # --- files that can't be read: of Parquet, ORC and Avro, their codecs, and Hadoop's checksums beside local files
    rule(
        Reason.FILE_CORRUPT, _NEVER,
        "org.apache.parquet.io.ParquetDecodingException org.apache.parquet.io.InvalidRecordException",
        "org.apache.parquet.crypto.ParquetCryptoRuntimeException com.google.protobuf.InvalidProtocolBufferException",
        "org.apache.orc.protobuf.InvalidProtocolBufferException protobuf.InvalidProtocolBufferException",
        "org.apache.orc.FileFormatException org.apache.avro.AvroRuntimeException",
        "org.apache.avro.InvalidAvroMagicException",
        "com.github.luben.zstd.ZstdException com.github.luben.zstd.ZstdIOException net.jpountz.lz4.LZ4Exception",
        "org.xerial.snappy.SnappyIOException java.util.zip.DataFormatException",
        "java.util.zip.ZipException org.apache.hadoop.fs.ChecksumException io.airlift.compress.MalformedInputException",
        "org.tukaani.xz.CorruptedInputException",
    ),
    rule(
        Reason.FILE_CORRUPT, _NEVER,
        message=r"is not a Parquet file|can ?not read class org\.apache\.\S*parquet|Malformed ORC"
        r"|Buffer size too small\.|footer is too large|footer index is not within the file"
        r"|Not an? Avro data file|Invalid sync!",
    ),
    rule(Reason.STORAGE_DOWN, _LATER, _IO),
)  # fmt: skip


def rule_of(causes: Sequence[Cause]) -> tuple[Rule, Cause] | None:
    """The first rule that any cause matches, with the outermost that does."""
    return next(((one, cause) for one in RULES for cause in causes if one.matches(cause)), None)
