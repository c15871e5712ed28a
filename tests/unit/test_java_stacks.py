"""What a thread is blocked on: stacks as a JVM wrote them, shortened to the frames that matter."""

from __future__ import annotations

from datetime import timedelta

import pytest

from icekeeper.adapters.spark.stacks import CallTimedOut, blocked_on
from icekeeper.core.reasons import Reason

READ = "java.base@17.0.15/sun.nio.ch.NioSocketImpl.timedRead(NioSocketImpl.java:290)"
SLEEP = "java.base@17.0.15/java.lang.Thread.sleep(Native Method)"
OURS = (
    "org.apache.iceberg.spark.SparkCatalog.loadTable(SparkCatalog.java:171), "
    "app//py4j.GatewayConnection.run(GatewayConnection.java:1)"
)
JDBC = "org.apache.iceberg.jdbc.JdbcTableOperations.doRefresh(JdbcTableOperations.java:73)"
METADATA = (
    "org.apache.iceberg.util.Tasks$Builder.runTaskWithRetry(Tasks.java:429), "
    "org.apache.iceberg.BaseMetastoreTableOperations.refreshFromMetadataLocation(BaseMetastoreTableOperations.java:1)"
)
S3 = (
    "software.amazon.awssdk.services.s3.DefaultS3Client.getObject(DefaultS3Client.java:7241), "
    "org.apache.iceberg.aws.s3.S3InputStream.openStream(S3InputStream.java:261)"
)
IDLE = "java.base@17.0.15/jdk.internal.misc.Unsafe.park(Native Method), app//py4j.GatewayServer.run(GatewayServer.java)"


@pytest.mark.parametrize(
    ("frames", "part"),
    [
        ([READ, "org.postgresql.core.PGStream.receiveChar(PGStream.java:480)", JDBC, OURS], Reason.CATALOG_DOWN),
        ([READ, "org.apache.iceberg.rest.HTTPClient.execute(HTTPClient.java:1)", OURS], Reason.CATALOG_DOWN),
        ([READ, "org.apache.thrift.transport.TSocket.read(TSocket.java)",
          "org.apache.iceberg.hive.HiveTableOperations.doRefresh(H.java)", OURS], Reason.CATALOG_DOWN),
        ([READ, "software.amazon.awssdk.core.internal.http.X.execute(X.java)",
          "software.amazon.awssdk.services.glue.DefaultGlueClient.getTable(D.java)",
          "org.apache.iceberg.aws.glue.GlueTableOperations.doRefresh(G.java)", OURS], Reason.CATALOG_DOWN),
        # A JDBC catalog has answered, and what it named is read from the store: at once, or after a pause.
        ([READ, S3, METADATA, JDBC, OURS], Reason.STORAGE_DOWN),
        ([SLEEP, METADATA, JDBC, OURS], Reason.STORAGE_DOWN),
        ([READ, S3, "org.apache.iceberg.ManifestReader.iterator(ManifestReader.java:1)"], Reason.STORAGE_DOWN),
        ([READ, "org.apache.hadoop.fs.FSDataInputStream.read(F.java)", OURS], Reason.STORAGE_DOWN),
        # Busy with itself.
        (["org.apache.iceberg.ManifestGroup.planFiles(ManifestGroup.java:1)", OURS], None),
        # Somebody else's thread.
        ([READ, "software.amazon.awssdk.services.s3.DefaultS3Client.getObject(D.java)"], None),
    ],
)  # fmt: skip
def test_the_frame_nearest_to_the_top_tells_what_a_thread_is_blocked_on(frames: list[str], part: Reason | None) -> None:
    dump = f"[[{IDLE}], [{', '.join(frames)}], []]"
    assert blocked_on(dump) is part


def test_an_idle_jvm_is_blocked_on_nothing() -> None:
    assert blocked_on("") is None
    assert blocked_on(f"[[{IDLE}], []]") is None


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (None, "cold.t: stopped after 120 s"),
        (Reason.STORAGE_DOWN, "cold.t: stopped after 120 s, waiting for the object store"),
        (Reason.ENGINE_DOWN, "cold.t: stopped after 120 s, waiting for an answer of Spark's JVM"),
    ],
)
def test_a_timeout_names_what_the_call_was_blocked_on(part: Reason | None, message: str) -> None:
    error = CallTimedOut(timedelta(minutes=2), part, "cold.t")
    assert (str(error), error.reason, error.blocked_on) == (message, Reason.DEADLINE, part)
