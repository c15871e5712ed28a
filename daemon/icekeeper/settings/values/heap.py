"""Memory in MiB: what a JVM needs in all, the largest heap that fits, and how many Spark tasks a heap serves."""

from __future__ import annotations

import re

# Spark refuses to start with less.
LEAST_HEAP_MIB = 512
# What a JVM needs beside its heap (as Spark computes it for Kubernetes and YARN, rounded up), and Python.
_LEAST_OVERHEAD_MIB = 384
_OVERHEAD_DIVISOR = 4
_PYTHON_MIB = 300
# A reading Spark task holds a few column chunks, a writing one a row group (write.parquet.row-group-size-bytes, 128 MiB
# by default) and its encoding buffers.
_READER_MIB = 128
_WRITER_MIB = 256
# Spark orders rows in so much of a heap (spark.memory.fraction) but for what it reserves; there they take up to so many
# times the bytes that they have in Parquet files.
_RESERVED_MIB = 300
_FRACTION_PCT = 60
_ORDERED = 10
# Spark tasks that wait for an object store need no core. More than these were no faster on two cores.
_MOST_THREADS = 16
_HEAP = re.compile(r"(\d+)([mg])")
_MEMORY = re.compile(r"(\d+)(?:([bkmgtp])b?)?", re.IGNORECASE)
_UNITS = "bkmgtp"


def heap_mib(value: str) -> int:
    """The MiB of a heap in Spark's and Java's syntax (2g, 1500m); ValueError for any other."""
    match = _HEAP.fullmatch(value)
    if match is None:
        raise ValueError("a heap is written as Spark does: 2g or 1500m")
    return int(match.group(1)) * (1024 if match.group(2) == "g" else 1)


def executor_mib(value: str) -> int:
    """The MiB of spark.executor.memory, in any way that Spark reads it; 0 for what it doesn't read."""
    match = _MEMORY.fullmatch(value.strip())
    if match is None:
        return 0
    return int(int(match.group(1)) * 1024.0 ** (_UNITS.index((match.group(2) or "m").lower()) - _UNITS.index("m")))


def needed(heap: int) -> int:
    """The memory of a heap of so many MiB, with what the JVM needs beside it (metaspace, code, threads) and Python."""
    return heap + max(heap // _OVERHEAD_DIVISOR, _LEAST_OVERHEAD_MIB) + _PYTHON_MIB


def largest(room: int) -> int:
    """The largest heap that fits into so many MiB; 0 if Spark can't start with any that fits."""
    left = room - _PYTHON_MIB
    fits = min(left * _OVERHEAD_DIVISOR // (_OVERHEAD_DIVISOR + 1), left - _LEAST_OVERHEAD_MIB)
    return fits if fits >= LEAST_HEAP_MIB else 0


def threads(heap: int) -> int:
    """How many Spark tasks a local session with such a heap runs at once. Cores are no limit: they wait for I/O."""
    return max(2, min(_MOST_THREADS, heap // _READER_MIB))


def ordered(heap: int) -> int:
    """The bytes of Parquet files whose rows one task can order in such a heap, without spilling them to disk."""
    return max(0, heap - _RESERVED_MIB) * 1024**2 * _FRACTION_PCT // 100 // _ORDERED


def writers(heap: int) -> int:
    """How many of them may write a file at once."""
    return max(1, heap // _WRITER_MIB)
