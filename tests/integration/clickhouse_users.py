"""Starts the sandbox's ClickHouse anew with another profile, other rights or row policies for the only user it has."""

from __future__ import annotations

from pathlib import Path

from icekeeper.sandbox.servers.clickhouse import ClickHouse

_USERS = """
<clickhouse>
  <profiles><default>{profile}</default></profiles>
  <quotas><default/></quotas>
  <users><default>
    <password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
    {rights}
  </default></users>
</clickhouse>
"""


def restart_with_users(server: ClickHouse, root: Path, *, profile: str = "", rights: str = "") -> None:
    """`root` is the directory that the server was made with; `profile` and `rights` are elements of its users file.

    The engine in a wheel can't change its user, but it reads its users from a file when it starts.
    """
    users = root / "clickhouse" / "users.xml"
    users.write_text(_USERS.format(profile=profile, rights=rights))
    users.with_name("config.xml").write_text(f"<clickhouse><users_config>{users}</users_config></clickhouse>")
    _restart(server)


def restart_as_made(server: ClickHouse, root: Path) -> None:
    """Undoes `restart_with_users`."""
    (root / "clickhouse" / "config.xml").unlink()
    _restart(server)


def _restart(server: ClickHouse) -> None:
    server.stop()
    server.start()
