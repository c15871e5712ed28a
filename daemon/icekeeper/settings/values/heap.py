"""How much memory a JVM's heap comes to in all, which heap fits a machine, and for what it is enough: in MiB."""

from __future__ import annotations

import re

# Spark refuses to start with less.
LEAST_HEAP_MIB = 512
# What a JVM takes beside its heap (as Spark reckons it on Kubernetes and YARN, but rounded up), and Python.
_LEAST_OVERHEAD_MIB = 384
_OVERHEAD_DIVISOR = 4
_PYTHON_MIB = 300
# A task that reads holds a few column chunks, one that writes a row group (write.parquet.row-group-size-bytes, 128 MiB
# unless the table says otherwise) and what is being encoded.
_READER_MIB = 128
_WRITER_MIB = 256
# Tasks that wait for an object store need no core. More than these were no faster on two cores.
_MOST_THREADS = 16
_HEAP = re.compile(r"(\d+)([mg])")


def heap_mib(value: str) -> int:
    """How many MiB a heap is that is written as Spark and Java do; ValueError where it is not."""
    match = _HEAP.fullmatch(value)
    if match is None:
        raise ValueError("a heap is written as Spark does: 2g or 1500m")
    return int(match.group(1)) * (1024 if match.group(2) == "g" else 1)


def needed(heap: int) -> int:
    """What a heap of so many MiB comes to, with what the JVM needs beside it (metaspace, code, threads) and Python."""
    return heap + max(heap // _OVERHEAD_DIVISOR, _LEAST_OVERHEAD_MIB) + _PYTHON_MIB


def largest(room: int) -> int:
    """The largest heap that so many MiB have room for; 0 where Spark starts with none that fits."""
    left = room - _PYTHON_MIB
    fits = min(left * _OVERHEAD_DIVISOR // (_OVERHEAD_DIVISOR + 1), left - _LEAST_OVERHEAD_MIB)
    return fits if fits >= LEAST_HEAP_MIB else 0


def threads(heap: int) -> int:
    """How many tasks a local session of so many MiB of heap runs at once: by what they wait for, not by cores."""
    return max(2, min(_MOST_THREADS, heap // _READER_MIB))


def writers(heap: int) -> int:
    """How many of them may write a file at once."""
    return max(1, heap // _WRITER_MIB)
