"""The host: its memory by cgroup v1 and v2, its clock against servers that answer, hang or refuse, its disks."""

from __future__ import annotations

import asyncio
import errno
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from icekeeper.adapters import host as host_module
from icekeeper.adapters.host import Host, memory_free, memory_limit, memory_room
from icekeeper.core.errors import TransientError
from icekeeper.core.reasons import Reason

NOW = datetime(2026, 2, 18, 2, tzinfo=UTC)
GIB = 1024**3


def cgroup(tmp_path: Path, membership: str, **limits: int | str) -> int | None:
    """The limit where /proc/self/cgroup says `membership` and these files, by their path, have these contents."""
    for path, limit in limits.items():
        file = tmp_path / "cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    process = tmp_path / "self"
    process.write_text(membership)
    return memory_limit(tmp_path / "cgroup", process)


def test_the_limit_of_a_container_in_cgroup_v2(tmp_path: Path) -> None:
    assert cgroup(tmp_path, "0::/\n", **{"memory.max": 4 * GIB}) == 4 * GIB


def test_the_smallest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    limits: dict[str, int | str] = {
        "system.slice/ice.service/memory.max": 6 * GIB,
        "system.slice/memory.max": 4 * GIB,
        "memory.max": "max",
    }
    assert cgroup(tmp_path, "0::/system.slice/ice.service\n", **limits) == 4 * GIB


def test_a_path_of_the_host_is_not_ours_but_the_root_is(tmp_path: Path) -> None:
    assert cgroup(tmp_path, "0::/docker/abc\n", **{"memory.max": 2 * GIB}) == 2 * GIB


def test_the_limit_of_a_container_in_cgroup_v1_and_no_other_controllers(tmp_path: Path) -> None:
    membership = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n"
    assert cgroup(tmp_path, membership, **{"memory/memory.limit_in_bytes": 3 * GIB, "cpu/memory.max": GIB}) == 3 * GIB


@pytest.mark.parametrize("text", ["max", str((1 << 63) - 4096), "nonsense", ""])
def test_no_limit_is_written_in_several_ways(tmp_path: Path, text: str) -> None:
    assert cgroup(tmp_path, "0::/\n", **{"memory.max": text}) is None


@pytest.mark.parametrize(
    ("limit", "room"),
    [
        (4 * GIB, (4 * GIB, "the container")),
        ("max", (16 * GIB, "this machine")),
        (64 * GIB, (16 * GIB, "this machine")),
    ],
)
def test_the_smaller_of_the_limit_and_the_machine_is_what_there_is(
    tmp_path: Path, limit: int | str, room: tuple[int, str]
) -> None:
    cgroup(tmp_path, "0::/\n", **{"memory.max": limit})
    assert memory_room(tmp_path / "cgroup", tmp_path / "self", 16 * GIB) == room


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path, tmp_path / "no such file") is None


def test_what_is_free_leaves_out_files_that_can_be_dropped(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    for group, limit, used in (("", "max", 9 * GIB), ("a", 4 * GIB, 3 * GIB), ("a/b", 8 * GIB, GIB)):
        directory = root / group
        directory.mkdir(exist_ok=True)
        (directory / "memory.max").write_text(f"{limit}\n")
        (directory / "memory.current").write_text(f"{used}\n")
        (directory / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 2}\n")
    process = tmp_path / "self"
    process.write_text("0::/a/b\n")
    assert memory_free(root, process) == 1.5 * GIB
    (root / "a" / "memory.stat").unlink()
    assert memory_free(root, process) == GIB
    (root / "a" / "memory.max").write_text("max")
    (root / "a" / "b" / "memory.max").write_text("max")
    assert memory_free(root, process) is None


async def test_clocks_are_asked_at_once_and_those_that_do_not_answer_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "_CLOCK_TIMEOUT_S", 0.05)

    async def ahead() -> datetime:
        return NOW - timedelta(minutes=10)

    async def hangs() -> datetime:
        await asyncio.sleep(60)
        return NOW

    async def refuses() -> datetime:
        raise TransientError("down")

    host = Host(lambda: NOW, {"a": ahead, "b": hangs, "c": refuses}, ())
    assert await host.clock_ahead() == {"a": timedelta(minutes=10)}


async def test_the_time_is_taken_in_the_middle_of_the_question() -> None:
    ticks = iter([NOW, NOW + timedelta(seconds=4)])

    async def server() -> datetime:
        return NOW + timedelta(seconds=2)

    assert await Host(lambda: next(ticks), {"a": server}, ()).clock_ahead() == {"a": timedelta(0)}


async def test_a_directory_that_is_not_there_yet_counts_by_its_parent(tmp_path: Path) -> None:
    (disk,) = await Host(lambda: NOW, {}, (tmp_path / "not" / "yet",)).disks()
    assert disk.path == str(tmp_path / "not" / "yet")
    assert disk.free > 0


class HungMount:
    """A file system whose calls block until its server is back."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.calls = 0

    def free_bytes(self, path: Path) -> int:
        self.calls += 1
        assert self.back.wait(30), "the event loop was blocked"
        return 7


async def test_a_mount_that_hangs_costs_an_error_and_one_thread_and_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host_module, "_DISK_TIMEOUT_S", 0.05)
    mount = HungMount()
    # A reload builds another Host for the same directories.
    hosts = [Host(lambda: NOW, {}, (tmp_path,), mount.free_bytes) for _ in range(2)]
    for host in hosts:
        with pytest.raises(TransientError) as caught:
            await host.disks()
        assert caught.value.reason is Reason.STORAGE_DOWN
        assert str(caught.value) == f"{tmp_path}: the file system did not answer within 0.05 s"
    assert mount.calls == 1, "no second thread while the first one hangs"
    mount.back.set()
    monkeypatch.setattr(host_module, "_DISK_TIMEOUT_S", 30)
    (disk,) = await hosts[0].disks()
    assert disk.free == 7


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), Reason.STORAGE_DOWN),
        (OSError(errno.EIO, "Input/output error"), Reason.STORAGE_DOWN),
        (PermissionError(errno.EACCES, "Permission denied"), Reason.ACCESS_DENIED),
    ],
)
async def test_a_file_system_that_refuses_is_an_error_with_a_reason(
    tmp_path: Path, error: OSError, reason: Reason
) -> None:
    def refuse(path: Path) -> int:
        raise error

    with pytest.raises(TransientError) as caught:
        await Host(lambda: NOW, {}, (tmp_path,), refuse).disks()
    assert caught.value.reason is reason
    assert str(caught.value) == f"{tmp_path}: the free space can't be read: {error.strerror}"
