"""Deleting files through a table's own FileIO: paths are collected in the JVM and deleted in bulk."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from py4j.protocol import Py4JJavaError

from icekeeper.adapters.iceberg.deleting.kept import MOST_PATHS, KeptPaths, identity
from icekeeper.adapters.iceberg.jvm import IcebergJvm, consumer_of
from icekeeper.adapters.iceberg.proof.compiled import new_instance
from icekeeper.adapters.spark.log import SparkLog
from icekeeper.core.errors import TransientError
from icekeeper.core.tables.state import DeletedFiles

log = structlog.get_logger(__name__)

# How many of the deleted files are checked for in the store afterwards.
DELETED_SAMPLE = 5
# Of how many files the tags are read where some could not be written before.
_TAGS_READ = 1000
# The seconds that stay for what follows another try.
_RESERVE_S = 10.0

# What Iceberg's ReachableFileCleanup only logs where it could not read all that it has to: its paths are not all.
_UNREAD = re.compile("Failed to (?:determine (?:live files|manifests)|list all reachable files)")

DELETE_ENABLED = "s3.delete-enabled"
_DELETE_TAGS = "s3.delete.tags."
# FileIOs that follow these properties, the second where the path is one of S3. Those of Hadoop, GCS, ADLS and others
# have no such switch (GCPProperties, AzureProperties, AliyunProperties of Iceberg 1.12).
_S3_IO = "org.apache.iceberg.aws.s3.S3FileIO"
_ENCRYPTING_IO = "org.apache.iceberg.encryption.EncryptingFileIO"
_RESOLVING_IO = "org.apache.iceberg.io.ResolvingFileIO"


@dataclass(frozen=True, slots=True)
class PathCollector:
    """A Java Consumer<String> and the queue behind it."""

    consumer: Any
    queue: Any

    def count(self) -> int:
        return int(self.queue.size())


def path_collector(jvm: IcebergJvm) -> PathCollector:
    """Keeps the paths that an expiry wants deleted, so that they are known, counted and deleted in bulk."""
    queue = jvm.java.util.concurrent.ConcurrentLinkedQueue()
    signature = jvm.lang.invoke.MethodType.methodType(jvm.lang.Boolean.TYPE, jvm.java_class("java.lang.Object"))
    add = jvm.lookup().findVirtual(jvm.java_class("java.util.Collection"), "add", signature).bindTo(queue)
    return PathCollector(consumer_of(jvm, add), queue)


def delete_files(jvm: IcebergJvm, table: Any, paths: Any) -> int:
    """Deletes a Java collection of paths, in bulk where the store can; the number that failed, where it is reported.

    Threads are bounded either way: FileIOs with bulk deletion have their own pools, others get Iceberg's worker pool.
    """
    io = table.io()
    if not jvm.java_class("org.apache.iceberg.io.SupportsBulkOperations").isInstance(io):
        jvm.iceberg.CatalogUtil.deleteFiles(io, paths, "expired", True)
        return 0
    try:
        io.deleteFiles(paths)
    except Py4JJavaError as exc:
        if "BulkDeletionFailureException" not in exc.java_exception.getClass().getName():
            raise
        return int(exc.java_exception.numberFailedObjects())
    return 0


def expire_and_delete(
    jvm: IcebergJvm,
    name: str,
    table: Any,
    snapshot_ids: Sequence[int],
    expire: Callable[[], PathCollector],
    kept: KeptPaths,
    until: float,
    engine_log: SparkLog,
) -> DeletedFiles:
    """Has snapshots expired, if any are named, and deletes their files and those that are kept of earlier expiries.

    Before the commit it is on disk from what the paths can be found again, and before the first delete the paths are:
    whatever ends this, another call goes on. Before a second try the table is asked which of them it refers to.

    `until`: seconds since 1970.
    """
    metadata = table.operations().current()
    table_id = identity(metadata.uuid(), str(metadata.location()))
    _find_again(jvm, name, table, table_id, kept)
    earlier = kept.count(table_id)
    if not snapshot_ids:
        return _try_again(jvm, name, table, table_id, kept, until) if earlier else DeletedFiles()
    try:
        kept.begin(table_id, str(metadata.metadataFileLocation()), snapshot_ids)
    except OSError as exc:
        log.warning("undeleted_files_not_kept", table=name, error=str(exc))
    mark = engine_log.mark()
    try:
        new = expire()
    except TransientError:  # it was not committed
        kept.end(table_id)
        raise
    on_disk = _keep(jvm, name, table_id, new, kept, MOST_PATHS - earlier)
    if _UNREAD.search(engine_log.all_since(mark)):
        _find_again(jvm, name, table, table_id, kept)
        return _try_again(jvm, name, table, table_id, kept, until)
    kept.end(table_id)
    if earlier and on_disk:
        return _try_again(jvm, name, table, table_id, kept, until)
    tags = _only_tags(table)
    if _deleted(jvm, table, new.queue, tags):
        if on_disk:
            kept.replace(table_id, name, 0, lambda path: None)
        return DeletedFiles(new.count(), tagged=bool(tags))
    if on_disk:
        return _try_again(jvm, name, table, table_id, kept, until)
    return DeletedFiles(new.count(), new.count(), _sample(new.queue, 1)[0], kept=False)


def _find_again(jvm: IcebergJvm, name: str, table: Any, table_id: str, kept: KeptPaths) -> None:
    """Keeps the paths of an expiry that has ended between its commit and its list, if there is one."""
    begun = kept.begun(table_id)
    if begun is None:
        return
    location, snapshot_ids = begun
    found = new_instance(jvm, "KeptFiles", table, folder=Path(__file__).parent)
    if exists(table, location):
        found.addNamed(location, ",".join(map(str, snapshot_ids)))
        found.dropReferenced()  # all of them, where it did not land
    else:
        log.warning("undeleted_files_forgotten", table=name, snapshots=len(snapshot_ids), metadata=location)
    if count := int(found.count()):
        log.info("files_found_again", table=name, files=count)
        kept.add(table_id, name, lambda path: found.write(path, MOST_PATHS))
    kept.end(table_id)


def _try_again(jvm: IcebergJvm, name: str, table: Any, table_id: str, kept: KeptPaths, until: float) -> DeletedFiles:
    """Deletes the files that are kept, but for those that the table refers to."""
    again = new_instance(jvm, "KeptFiles", table, folder=Path(__file__).parent)
    again.read(str(kept.path(table_id)))
    in_use = int(again.dropReferenced())
    total, tags, latest = int(again.count()), _only_tags(table), int((until - _RESERVE_S) * 1000)
    if tags:
        again.dropGone(latest)
        left = 0 if _deleted(jvm, table, again.paths(), tags, _TAGS_READ) else int(again.count())
    else:
        again.delete(latest)
        left = int(again.count())
    try:
        kept.replace(table_id, name, left, lambda new: again.write(new, MOST_PATHS))
    except (OSError, Py4JJavaError) as exc:  # the longer list of before stays
        log.warning("undeleted_files_not_kept", table=name, files=left, error=str(exc))
    log.info("files_tried_again", table=name, deleted=total - left, left=left, in_use=in_use)
    example = _sample(again.paths(), 1)[0] if left else None
    return DeletedFiles(total, left, example, in_use, tagged=bool(tags))


def _deleted(jvm: IcebergJvm, table: Any, paths: Any, tags: dict[str, str], sample: int = DELETED_SAMPLE) -> bool:
    """Deletes or tags them; whether all of them are, as far as it is reported and a sample shows."""
    try:
        if delete_files(jvm, table, paths):
            return False
        if tags:
            return _have_tags(jvm, table, _sample(paths, sample), tags)
        return not any(exists(table, path) for path in _sample(paths, sample))
    except Py4JJavaError as exc:  # the expiry has landed: what is not known to be gone is kept
        log.warning("files_not_deleted", table=str(table.name()), error=str(exc.java_exception))
        return False


def _sample(paths: Any, most: int) -> tuple[str, ...]:
    """Some of the paths, evenly spread: all of them as Python strings could need more memory than the JVM has."""
    count = int(paths.size())
    places = range(0, count, max(1, count // most))[:most]
    return tuple(str(paths.stream().skip(place).findFirst().get()) for place in places)


def _keep(jvm: IcebergJvm, name: str, table_id: str, new: PathCollector, kept: KeptPaths, most: int) -> bool:
    """Puts the paths on disk, at most so many; False where it can't take them: they are deleted all the same."""

    def append(path: str) -> None:
        file = jvm.java.nio.file
        options = jvm.array(file.OpenOption, [file.StandardOpenOption.APPEND])
        paths = new.queue
        if new.count() > most:
            paths = paths.stream().limit(max(0, most)).collect(jvm.java.util.stream.Collectors.toList())
            log.warning("undeleted_files_forgotten", table=name, files=new.count() - max(0, most))
        file.Files.write(file.Path.of(path, jvm.array(jvm.lang.String, [])), paths, options)

    try:
        kept.add(table_id, name, append)
    except (OSError, Py4JJavaError) as exc:
        log.warning("undeleted_files_not_kept", table=name, files=new.count(), error=str(exc))
        return False
    return True


def exists(table: Any, path: str) -> bool:
    return bool(table.io().newInputFile(path).exists())


# --- the switch of S3FileIO


def switched_off(table: Any) -> str:
    """The property by which the table's FileIO neither deletes nor tags files; empty where it does either."""
    properties = _when_not_deleting(table)
    return DELETE_ENABLED if properties and not _tags(properties) else ""


def _only_tags(table: Any) -> dict[str, str]:
    """The tags that files get in place of being deleted; none where they are deleted."""
    return _tags(_when_not_deleting(table))


def _tags(properties: dict[str, str]) -> dict[str, str]:
    return {key.removeprefix(_DELETE_TAGS): value for key, value in properties.items() if key.startswith(_DELETE_TAGS)}


def _when_not_deleting(table: Any) -> dict[str, str]:
    """The properties about deletion of a FileIO of S3 that does not delete; of any other none.

    They are in force: what the catalog, its answer for the table and the settings make of them together.
    """
    io = s3_io(table)
    if io is None:
        return {}
    properties = io.properties()
    enabled = properties.get(DELETE_ENABLED)
    if enabled is None or str(enabled).lower() == "true":  # a round trip each: the others don't matter then
        return {}
    return {str(key): str(properties[key]) for key in properties if str(key).startswith("s3.delete")}


def s3_io(table: Any) -> Any | None:
    """The table's FileIO, where it is one of S3; in an encrypted table the one below."""
    io = table.io()
    if str(io.getClass().getName()).startswith(_ENCRYPTING_IO):
        io = io.sourceFileIO()
    kind = io.getClass()
    if str(kind.getName()) == _RESOLVING_IO:
        places = (str(table.location()), str(table.properties().get("write.data.path")))
        return io if any(place.startswith("s3") for place in places) else None
    while kind is not None and str(kind.getName()) != _S3_IO:
        kind = kind.getSuperclass()
    return None if kind is None else io


def _have_tags(jvm: IcebergJvm, table: Any, paths: tuple[str, ...], tags: dict[str, str]) -> bool:
    """Whether these objects carry the tags: S3FileIO only logs where it could not write them."""
    s3, io = jvm.iceberg.aws.s3.S3FileIO(), table.io()
    if jvm.java_class("org.apache.iceberg.io.SupportsStorageCredentials").isInstance(io):
        s3.setCredentials(io.credentials())
    s3.initialize(io.properties())
    try:
        java: Any = jvm.spark._jvm
        model = java.software.amazon.awssdk.services.s3.model
        for path in paths:
            bucket, _, key = path.partition("://")[2].partition("/")
            request = model.GetObjectTaggingRequest.builder().bucket(bucket).key(key).build()
            try:
                answer = s3.client(path).getObjectTagging(request)
            except Py4JJavaError as exc:
                if "NoSuchKey" not in str(exc.java_exception):
                    raise
                continue  # the store's own rules have taken it
            found = {str(tag.key()): str(tag.value()) for tag in answer.tagSet()}
            if not tags.items() <= found.items():
                return False
        return True
    finally:
        s3.close()
