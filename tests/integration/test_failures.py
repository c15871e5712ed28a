"""What the JVM raises, raised for real: every class that a rule names exists, and what is raised has its reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.failures.rules import RULES
from icekeeper.core.errors import IcekeeperError, SessionSpent
from icekeeper.core.reasons import Reason

MINUTE = timedelta(minutes=1)
# As they are called where libraries were copied into the jars of Spark, Iceberg and AWS's bundle.
COPIES = ("", "org.apache.iceberg.shaded.", "org.apache.hadoop.thirdparty.", "org.apache.iceberg.aws.shaded.")
# Of jars that are not among the packages by default.
ELSEWHERE = (
    "com.azure.", "com.google.", "com.microsoft.", "org.apache.hadoop.fs.s3a.", "org.apache.hadoop.fs.azurebfs.",
    "software.amazon.awssdk.services.ssooidc.",
)  # fmt: skip


async def test_every_class_that_a_rule_names_is_in_the_jars(engine: SparkEngine) -> None:
    names = {name for rule in RULES for name in rule.classes if not name.endswith(".")}
    names = {name for name in names if not name.startswith(ELSEWHERE)}

    def unknown(spark: SparkSession) -> set[str]:
        loader = IcebergJvm(spark).lang.Thread.currentThread().getContextClassLoader()

        def exists(name: str) -> bool:
            try:
                loader.loadClass(name)
            except Py4JJavaError:
                return False
            return True

        return {name for name in names if not any(exists(f"{copy}{name}") for copy in COPIES)}

    assert len(names) > 80
    assert await engine.run(unknown, timeout=MINUTE, jobs=False) == set()


def direct_memory(jvm: Any) -> None:
    jvm.java.nio.ByteBuffer.allocateDirect(2_147_483_647)


def arrows_memory(jvm: Any) -> None:
    jvm.org.apache.iceberg.shaded.org.apache.arrow.memory.RootAllocator(1024).buffer(1_000_000)


def a_library_of_another_version(jvm: Any) -> None:
    jvm.java.lang.Class.forName("com.acme.Missing")


@pytest.mark.parametrize(
    ("provoke", "reason"),
    [
        (direct_memory, Reason.ENGINE_OUT_OF_MEMORY),
        (arrows_memory, Reason.ENGINE_OUT_OF_MEMORY),
        (a_library_of_another_version, Reason.JAR_MISSING),
    ],
)
async def test_what_is_raised_has_its_reason(
    engine: SparkEngine, provoke: Callable[[Any], None], reason: Reason
) -> None:
    with pytest.raises(IcekeeperError) as caught:
        await engine.run(lambda spark: provoke(spark._jvm), timeout=MINUTE, where="cold.t")
    assert caught.value.reason is reason
    assert isinstance(caught.value, SessionSpent) == (reason is Reason.ENGINE_OUT_OF_MEMORY)
