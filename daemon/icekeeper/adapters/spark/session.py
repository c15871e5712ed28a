"""One Spark session and its JVM: start, calls, stacks, end. Every method blocks; threads and deadlines: `engine.py`."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from icekeeper.adapters.spark.errors import is_engine_gone, translate
from icekeeper.adapters.spark.launch import connect, forget, spawn
from icekeeper.adapters.spark.log import SparkLog
from icekeeper.adapters.spark.options import (
    SparkOptions,
    clear_scratch,
    prepare_environment,
    spark_conf,
    take_scratch,
    write_properties,
)
from icekeeper.adapters.spark.process import errors_in, exit_code, not_started
from icekeeper.adapters.spark.stacks import stacks
from icekeeper.core.errors import IcekeeperError, TransientError
from icekeeper.core.reasons import Reason

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Session:
    """A session from its start to its end; it is started once. `start` and `call` belong to one thread."""

    def __init__(self, options: SparkOptions, spark_log: SparkLog) -> None:
        self._options = options
        self._log = spark_log
        self._started_at = 0.0
        # The process id of the JVM, dead or alive.
        self.pid: int | None = None
        self._spark: SparkSession | None = None
        self._jvm: subprocess.Popen[bytes] | None = None
        # The JVM's class of threads, and the one that serves our thread: PySpark pins one to the other.
        self._java_thread: Any = None
        self._serving_thread: Any = None

    @property
    def up(self) -> bool:
        """Whether the session is there and its JVM lives."""
        return self._spark is not None and self.jvm_pid is not None

    @property
    def jvm_pid(self) -> int | None:
        """The process id of the JVM while it lives."""
        jvm = self._jvm
        return jvm.pid if jvm is not None and jvm.poll() is None else None

    @property
    def died(self) -> bool:
        """Whether the JVM has exited by itself."""
        jvm = self._jvm
        return jvm is not None and jvm.poll() is not None

    @property
    def age(self) -> timedelta | None:
        """How long the session has been up; None where it isn't."""
        return timedelta(seconds=time.monotonic() - self._started_at) if self.up else None

    def start(self) -> None:
        """Starts the JVM and connects to it. TransientError `engine_down`, PermanentError where no Java fits.

        Not in the main thread: PySpark would replace its handler of SIGINT.
        """
        options = self._options
        forget()
        try:
            java = prepare_environment(options, os.environ)
            clear_scratch(options)
            take_scratch(options)
        except OSError as exc:
            raise not_started(str(exc), options) from exc
        properties = options.scratch / "icekeeper.properties"
        conf = spark_conf(options)
        mark = self._log.mark()
        try:
            write_properties(conf, properties)
            self._jvm, connection_file = spawn(options, properties)
            self.pid = self._jvm.pid
            assert self._jvm.stdout is not None  # it is a pipe
            self._log.follow(self._jvm.stdout)
            gateway = connect(self._jvm, connection_file)
            settings = SparkConf(loadDefaults=False).setAll(list(conf.items()))
            session = SparkSession(SparkContext(conf=settings, gateway=gateway))
            for key, value in options.session_conf.items():
                session.conf.set(key, value)
        except Exception as exc:  # whatever it was, no half-made session may stay
            self.kill()
            cause = errors_in(self._log.all_since(mark)) or str(exc)
            raise not_started(f"{java.origin} (Java {java.major}): {cause}; see {options.log}", options) from exc
        finally:
            properties.unlink(missing_ok=True)
        self._started_at = time.monotonic()
        self._java_thread = session._jvm.java.lang.Thread  # type: ignore[union-attr]
        self._serving_thread = self._java_thread.currentThread()
        self._spark = session

    def call(self, work: Callable[[SparkSession], T], tag: str | None, where: str | None) -> T:
        """Does `work` with the session; jobs that it starts carry the tag.

        Errors are translated in this thread, because that asks the JVM, which may hang; those that mean that the JVM
        is gone (`is_engine_gone`) are raised as they are.
        """
        if self._spark is None:
            raise TransientError("there is no session", reason=Reason.ENGINE_DOWN)
        context = self._spark.sparkContext
        self._java_thread.interrupted()  # clears an interrupt that came too late for the call before
        if tag is not None:
            context.addJobTag(tag)
        try:
            return work(self._spark)
        except Exception as exc:
            if isinstance(exc, IcekeeperError) or is_engine_gone(exc):
                raise
            raise translate(exc, where, self._options.packages, self._options.jars) from exc
        finally:
            try:
                if tag is not None:
                    context.clearJobTags()
            except Exception as exc:  # the JVM died under the call; its error is the one to report
                log.debug("job_tag_not_cleared", error=str(exc))

    def cancel(self, tag: str | None, *, interrupt: bool) -> None:
        """From another thread: cancels the jobs that carry the tag, and interrupts the thread that serves the call."""
        try:
            if self._spark is not None and tag is not None:
                self._spark.sparkContext.cancelJobsWithTag(tag)
            if interrupt:
                self._serving_thread.interrupt()
        except Exception as exc:  # the JVM may be going down itself: the caller of the work sees that
            log.debug("cancel_failed", error=str(exc))

    def stacks(self) -> str:
        """From another thread: the stacks of the JVM's threads; empty where they can't be had."""
        try:
            return "" if self._spark is None else stacks(self._spark)
        except Exception as exc:  # the JVM may be going down itself: the caller of the work sees that
            log.debug("stacks_not_read", error=str(exc))
            return ""

    def stop_spark(self) -> None:
        """In the session's thread: stops Spark. The JVM lives on until `close`."""
        if self._spark is not None:
            self._spark.stop()

    def close(self) -> None:
        """Ends the JVM, by force where it does not leave by itself, and removes the scratch files."""
        if self._jvm is not None:
            self._close_stdin(self._jvm)
        self.bury()
        clear_scratch(self._options)

    def bury(self) -> int | None:
        """Waits for the end of a JVM that is leaving; its exit code, None where it had to be killed."""
        code = None if self._jvm is None else exit_code(self._jvm)
        self.kill()
        return code

    def abort(self) -> None:
        """From any thread, without waiting: kills the JVM. Calls that wait for it fail."""
        if (jvm := self._jvm) is not None:
            jvm.kill()

    def kill(self) -> None:
        """Kills the JVM, waits until it is gone, and makes PySpark forget the session; another one is left alone."""
        if (jvm := self._jvm) is None:
            return
        self._close_stdin(jvm)
        jvm.kill()
        exit_code(jvm)
        forget()
        self._spark = None
        self._jvm = None

    @staticmethod
    def _close_stdin(jvm: subprocess.Popen[bytes]) -> None:
        """A JVM that PySpark has started leaves when its stdin is closed."""
        if jvm.stdin is not None:
            jvm.stdin.close()
