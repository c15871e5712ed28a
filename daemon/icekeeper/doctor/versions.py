"""Whether Java, Spark and Iceberg's runtime fit together: pure rules. `lakehouse.py` asks the session."""

from __future__ import annotations

import re
from dataclasses import dataclass

from icekeeper.adapters.iceberg.probe import SessionFacts
from icekeeper.core.formats import counted
from icekeeper.doctor.check import Check, Subject
from icekeeper.settings.values.heap import heap_mib

_JAR = re.compile(r"iceberg-spark-runtime-(\d+\.\d+)_(\d+\.\d+)-([\w.]+?)(?:\.jar)?(?:[?#].*)?$")
_COORDINATE = re.compile(r"iceberg-spark-runtime-(\d+\.\d+)_(\d+\.\d+):([\w.-]+)$")
_INSTALL = (
    "Install pyspark 4.1.1 or newer of the 4.1 line (icekeeper brings it; spark.home chooses another), and give it "
    "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0 in spark.packages or spark.jars."
)
# SPARK-54753: each rewrite leaves a session behind.
_LEAKING = {(4, 0, 1), (4, 1, 0)}
# The garbage collector reserves a share of the heap.
_HEAP_SHARE = 0.8
# The Java versions in Spark's documentation.
_JAVA = {(3, 5): (8, 11, 17), (4, 0): (17, 21), (4, 1): (17, 21)}


@dataclass(frozen=True, slots=True)
class Runtime:
    """Iceberg's runtime jar, by its name: for which Spark and Scala, of which Iceberg."""

    spark: str
    scala: str
    iceberg: str

    @classmethod
    def of(cls, text: str) -> Runtime | None:
        """From a jar's URL or path, or a Maven coordinate; None where the name does not match."""
        match = _COORDINATE.search(text) or _JAR.search(text)
        return cls(*match.groups()) if match else None


def fit(spark: str, java: int | None, runtime: Runtime | None, iceberg: str | None = None) -> Check:
    """Whether a Spark has its Iceberg runtime, and a Java that it supports. `iceberg`: its version, if it is known."""
    line = _version(spark)[:2]
    text = f"Spark {spark}"
    if version := iceberg or (runtime and runtime.iceberg):
        text += f", Iceberg {version}"
    if runtime is not None:
        text += f" (its runtime for Spark {runtime.spark})"
        if _version(runtime.spark)[:2] != line:
            return Subject.SPARK.failure(f"{text}: they do not fit", _INSTALL)
    if line not in _JAVA:
        return Subject.SPARK.failure(f"{text}: there is no Iceberg runtime for this Spark yet", _INSTALL)
    if _version(spark) in _LEAKING:
        return Subject.SPARK.warning(f"{text}: this Spark leaks a session with every rewrite (SPARK-54753)", _INSTALL)
    if line == (4, 0):
        return Subject.SPARK.warning(f"{text}: Iceberg's newer releases have no runtime for Spark 4.0", _INSTALL)
    if java is not None and java not in _JAVA[line]:
        known = ", ".join(map(str, _JAVA[line]))
        text += f", Java {java}: this Spark knows Java {known}"
        return Subject.SPARK.warning(text, "Set JAVA_HOME to one of them.")
    return Subject.SPARK.passed(text)


def session_checks(facts: SessionFacts, took_s: float | None, driver_memory: str) -> list[Check]:
    """Checks of a running session: its jars, its heap, its executors. `took_s` None: it was up already."""
    how = "is up" if took_s is None else f"started in {took_s:.1f} s"
    text = f"the session on {facts.master} {how} and has {facts.heap / 1024**2:.0f} MiB of heap"
    if facts.executors is not None:
        text += f" and {counted(facts.executors, 'executor')}"
    wanted = heap_mib(driver_memory) * 1024**2
    if facts.executors == 0:
        advice = "Check whether the cluster has a free worker with the cores and the memory that spark.conf asks for."
        engine = Subject.ENGINE.failure(f"{text}: no job would ever begin", advice)
    elif facts.heap < wanted * _HEAP_SHARE:
        advice = "Check what else sets the heap beside spark.driver_memory: spark.conf, JAVA_TOOL_OPTIONS."
        engine = Subject.ENGINE.warning(f"{text}; {driver_memory} was asked for", advice)
    else:
        engine = Subject.ENGINE.passed(text)
    return [_loaded(facts), engine]


def _loaded(facts: SessionFacts) -> Check:
    if facts.iceberg is None:
        return Subject.SPARK.failure(f"Spark {facts.spark} has no Iceberg on its class path", _INSTALL)
    if not facts.has_planner:
        text = f"Iceberg {facts.iceberg} is too old: it has no rewrite planner; 1.10 has one"
        return Subject.SPARK.failure(text, _INSTALL)
    return fit(facts.spark, facts.java, Runtime.of(facts.jar or ""), facts.iceberg)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
