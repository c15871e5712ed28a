"""Iceberg's own planner of a rewrite: the groups that it would make, and filters that select their partitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof.schema_fit import schema_fit
from icekeeper.core.policy import CompactPolicy
from icekeeper.core.tables.planning import large_file_limit
from icekeeper.core.tables.state import FileGroup


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of one spec; `values` is Iceberg's StructLike. It holds no files, so that it may be kept."""

    spec_id: int
    values: Any


def planner_options(policy: CompactPolicy) -> dict[str, str]:
    """Options of Iceberg's rewrite_data_files; planner and action get the same, so that both see the same work."""
    return {
        "target-file-size-bytes": str(policy.target_file_size),
        "min-input-files": str(policy.min_input_files),
    }


def plan_groups(jvm: IcebergJvm, table: Any, options: dict[str, str]) -> tuple[list[tuple[FileGroup, Partition]], Any]:
    """What Iceberg's own planner would rewrite: each group, and the partition that it lies in.

    Beside them a SchemaFit that has chosen their files: the action may take groups that do not gain as well.
    """
    planner = jvm.iceberg.actions.BinPackRewriteFilePlanner(table)
    planner.init(options)
    groups = planner.plan().groups().iterator()
    planned, fit = [], schema_fit(jvm, table)
    evolved = table.specs().size() > 1
    while groups.hasNext():
        group = groups.next()
        outputs = _output_files(jvm, table, group)
        gains = outputs < group.inputFileNum() or _gains(jvm, group, options)
        spec = table.specs().get(group.outputSpecId())
        partition = group.info().partition()
        found = FileGroup(
            partition=_path(jvm, spec, partition),
            files=group.inputFileNum(),
            bytes=group.inputFilesSizeInBytes(),
            output_files=outputs,
            # The planner puts files of older specs into the group whose every field is null.
            older_spec=evolved and all(value is None for value in _values(jvm, spec, partition)),
            gains=gains,
        )
        planned.append((found, Partition(group.outputSpecId(), partition)))
        fit.choose(found.partition, group.fileScanTasks())
    return planned, fit


def _output_files(jvm: IcebergJvm, table: Any, group: Any) -> int:
    """How many files a rewrite makes: each Spark task writes one at least, and gets whole row groups only.

    The planner divides sizes: of five files of 0.7 of the target it expects four, and every night makes five.
    """
    scan = jvm.iceberg.util.TableScanUtil
    tasks = scan.planTaskGroups(group.fileScanTasks(), group.inputSplitSize(), split_lookback(table), 0).size()
    return max(int(tasks), int(group.expectedOutputFiles()))


def split_lookback(table: Any) -> int:
    """Among how many bins Iceberg looks for room for a file (TableProperties.SPLIT_LOOKBACK)."""
    return int(table.properties().get("read.split.planning-lookback") or 10)


def _gains(jvm: IcebergJvm, group: Any, options: dict[str, str]) -> bool:
    """Whether a rewrite that leaves as many files is good for something, so that it is not planned again for ever."""
    large = large_file_limit(int(options["target-file-size-bytes"]))
    is_file_scoped = jvm.iceberg.util.ContentFileUtil.isFileScoped
    for task in group.fileScanTasks():
        if task.file().specId() != group.outputSpecId() or task.file().fileSizeInBytes() > large:
            return True
        # Position deletes of a whole partition may stay attached to what they no longer apply to.
        if any(str(d.content()) == "EQUALITY_DELETES" or is_file_scoped(d) for d in task.deletes()):
            return True
    return False


def _path(jvm: IcebergJvm, spec: Any, partition: Any) -> str:
    """The partition's path, as people know it, made unique."""
    path = str(spec.partitionToPath(partition))
    # Iceberg writes a null like the string "null".
    return f"{path} (the word)" if "null" in _values(jvm, spec, partition) else path


def _values(jvm: IcebergJvm, spec: Any, partition: Any) -> list[Any]:
    any_type = jvm.java_class("java.lang.Object")
    return [partition.get(position, any_type) for position in range(spec.fields().size())]


def partition_filter(jvm: IcebergJvm, table: Any, partitions: Sequence[Partition]) -> Any:
    """An Iceberg expression that selects exactly these partitions, of which there is at least one."""
    return _any_of(jvm, [_one_partition(jvm, table, partition) for partition in partitions])


def _one_partition(jvm: IcebergJvm, table: Any, partition: Partition) -> Any:
    """Every field's transform of its source column equals the partition's value."""
    expressions = jvm.iceberg.expressions.Expressions
    spec = table.specs().get(partition.spec_id)
    selected = expressions.alwaysTrue()
    whole = {field.sourceId() for field in spec.fields() if field.transform().isIdentity()}
    for field, value in zip(spec.fields(), _values(jvm, spec, partition.values), strict=True):
        if field.transform().isVoid():  # dropped in format version 1: null for every row, its column perhaps gone
            continue
        if field.sourceId() in whole and not field.transform().isIdentity():
            continue  # it follows from the column's own value, with which Iceberg's projection would confuse it
        column = table.schema().findColumnName(field.sourceId())
        term = expressions.transform(column, field.transform())
        if value is None:
            equals = expressions.isNull(term)
        elif isinstance(value, float) and math.isnan(value):
            equals = expressions.isNaN(term)
        elif field.transform().isIdentity() and str(table.schema().findType(column).typeId()) == "TIMESTAMP":
            # py4j makes an Integer of an instant near the epoch, which Iceberg does not accept as a timestamp.
            equal = getattr(jvm.iceberg.expressions, "Expression$Operation").EQ
            equals = expressions.predicate(equal, column, expressions.micros(value))
        else:
            equals = expressions.equal(term, value)
        selected = getattr(expressions, "and")(selected, equals)
    return selected


def _any_of(jvm: IcebergJvm, filters: list[Any]) -> Any:
    if len(filters) == 1:
        return filters[0]
    # Halved again and again: a chain of a thousand partitions would be as deep for code that walks through it.
    middle = len(filters) // 2
    either = getattr(jvm.iceberg.expressions.Expressions, "or")
    return either(_any_of(jvm, filters[:middle]), _any_of(jvm, filters[middle:]))
