"""The cut-over of docs/migration.md, command by command: from the workflow server's flow to icekeeper, and back."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.core.audit.compare import Cause
from icekeeper.doctor import Level, Subject
from icekeeper.sandbox import Offload, OffloadClock, Sandbox, World, WorldSpec
from tests.conftest import BINANCE, SLOT, world_clock, write_settings
from tests.integration.test_migration import FLOW_TABLE
from tests.process.preloaded import Program
from tests.process.program import PATIENCE_S, running, wait_for

HOURLY, DAILY = "cold.gold_ohlcv_1h", "cold.gold_ohlcv_1d"
DAY, HOUR, MINUTE, SECOND = (timedelta(seconds=seconds) for seconds in (86400, 3600, 60, 1))
PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
STEPS = PAGE[PAGE.index("## 1. ") : PAGE.index("# From a local")]
WATCH, SWITCH = (
    yaml.safe_load(textwrap.dedent(block)) for block in re.findall(r"^ *```yaml\n(.*?)```", STEPS, re.S | re.M)
)
COMMANDS = re.findall(r"(?:^|`)icekeeper ([a-z][^`#\n]*?)(?:`| *#| *$)", STEPS, re.M)


@dataclass
class Platform:
    """The platform as its engineer has it (tables, an offload, the flow's audits), and commands beside it."""

    world: World
    clock: OffloadClock
    config: Path
    directory: Path
    ran: list[str] = field(default_factory=list)
    # The clock of the daemon that runs.
    daemon_clock: Callable[[], datetime] | None = None

    def now(self) -> datetime:
        """The world's time; beside a daemon its time, which goes on by itself."""
        return max(self.clock.now(), self.daemon_clock()) if self.daemon_clock else self.clock.now()

    def change(self, blocks: dict[str, Any]) -> None:
        """Edits the configuration file."""
        self.config.write_text(yaml.safe_dump({**yaml.safe_load(self.config.read_text()), **blocks}))

    def command(self, *arguments: str) -> str:
        """What a command prints; it has to exit 0."""
        self.ran.append(" ".join(arguments))
        out, log = self.directory / "out", self.directory / "stderr"
        log.write_text("")
        with running(*arguments, config=self.config, log=log, out=out, at=self.now()) as program:
            code = program.wait(3 * PATIENCE_S)
        assert code == 0, f"{arguments}: {out.read_text()}{log.read_text()}"
        return out.read_text()

    def document(self, *arguments: str) -> Any:
        answer = json.loads(self.command(*arguments, "--json"))
        self.ran[-1] = " ".join(arguments)
        return answer

    @contextmanager
    def daemon(self, slot: datetime) -> Iterator[None]:
        """`icekeeper serve`, started shortly before a slot whose run ends well, and stopped after the block."""
        self.ran.append("serve")
        program: Program | subprocess.Popen[bytes]
        began = slot - 10 * SECOND
        with running("serve", config=self.config, log=self.directory / "log", at=began) as program:
            # Never ahead of it: it sets its clock once it has begun, and refuses slots that lie in its future.
            self.daemon_clock = world_clock(began - 5 * SECOND)
            query = (
                "SELECT outcome FROM maintenance_runs WHERE slot = $1 AND trigger <> 'manual' AND outcome IS NOT NULL"
            )
            ((outcome,),) = wait_for(f"the run of {slot}", lambda: self.ledger(query, slot), 3 * PATIENCE_S)
            assert outcome == "success"
            yield
            program.terminate()
            assert program.wait(PATIENCE_S) == 0
        self.daemon_clock = None

    def ledger(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self.world.postgres.execute(self.world.postgres_database, query, *values)

    def flow_audits(self, slot: datetime) -> None:
        """The flow's audit minutes after its slot: 02:00 to 02:00, without FINAL, judged by the absolute share."""
        self.world.trade(slot + 6 * MINUTE)  # ClickHouse has the rows that are not offloaded yet
        self.clock.move(slot + 7 * MINUTE)
        for table in self.world.tables:
            source, there = self.world.rows_clickhouse, self.world.rows_iceberg
            theirs, ours = (rows(table.name, slot - DAY, slot) for rows in (source, there))
            share = 100 * (ours - theirs) / theirs if theirs else 0.0
            status = "ok" if abs(share) <= 1 else "missing_data" if share < -5 else "warning"
            self.ledger(
                """
                INSERT INTO maintenance_audit_log (run_timestamp, iceberg_table, ch_source, layer, audit_window_hours,
                  window_start, window_end, ch_row_count, iceberg_row_count, delta, delta_pct, status)
                VALUES ($1, $2, $3, $4, 24, $5, $6, $7, $8, $9, $10::numeric, $11)
                """,
                self.clock.now(), table.name, table.source, table.layer, slot - DAY, slot,
                theirs, ours, ours - theirs, round(share, 4), status,
            )  # fmt: skip

    def files(self) -> set[str]:
        """All files of the warehouse."""
        warehouse = self.world.catalog_settings()["warehouse"].removeprefix("file://")
        return {str(path) for path in Path(warehouse).rglob("*") if path.is_file()}


def adjusted(document: dict[str, Any]) -> None:
    # The sandbox's cycles take seconds. A cycle of a table without new candles is taken to run so long after its begin:
    # the first look and the first night are later than that, and wait for nothing in real time.
    document["offload"]["cycle_max"] = "5m"
    # Code that Spark generates pays off only where it is run often.
    document["spark"]["conf"] |= {"spark.sql.codegen.wholeStage": False, "spark.sql.codegen.factoryMode": "NO_CODEGEN"}


@pytest.fixture
def platform(box: Sandbox, tmp_path: Path) -> Platform:
    spec = WorldSpec(
        now=SLOT, days=1.1, tables=(BINANCE, HOURLY, DAILY), files_per_commit=None, rows_per_file=2, symbols=6,
        catalog="hadoop",
    )  # fmt: skip
    world = box.world(spec)
    config = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", adjusted)
    made = Platform(world, OffloadClock(Offload(world), SLOT), config, tmp_path)
    made.ledger(FLOW_TABLE)
    return made


def others(document: Any) -> list[str]:
    """The levels of the doctor's checks for another job that maintains the tables."""
    return [check["level"] for check in document["checks"] if check["part"] == Subject.OTHERS.value]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_cut_over_from_the_first_command_to_the_switch_back(platform: Platform) -> None:
    slot, watched, night = SLOT, SLOT + 2 * HOUR + 7 * MINUTE, SLOT + DAY + 7 * MINUTE
    platform.flow_audits(slot)
    kept = platform.ledger("SELECT * FROM maintenance_audit_log ORDER BY id")

    # 1. Adopt the audit table.
    platform.command("config", "check")
    platform.command("migrate")
    columns = "id, run_timestamp, iceberg_table, ch_source, layer, audit_window_hours, window_start, window_end"
    columns += ", ch_row_count, iceberg_row_count, delta, delta_pct, status, notes"
    assert platform.ledger(f"SELECT {columns} FROM maintenance_audit_log ORDER BY id") == kept

    # 2. Watch, after the flow is done and between two cycles of the offload.
    platform.change(WATCH)
    platform.clock.skip(watched - MINUTE)
    assert others(platform.document("doctor")) == [Level.WARNING.value]
    files = platform.files()
    with platform.daemon(watched):
        assert platform.files() == files
        tasks = "SELECT iceberg_table, outcome, reason FROM maintenance_tasks WHERE stage = 'compact' ORDER BY 1"
        assert platform.ledger(tasks) == [(table, "held", "observing") for table in (BINANCE, DAILY, HOURLY)]
        compared = platform.document("compare")
        assert compared["explained"], compared
        pairs = compared["comparisons"]
        assert {pair["flow"]["iceberg_table"]: causes_of(pair) for pair in pairs} == {
            BINANCE: [Cause.LATER_ROWS.value],
            HOURLY: [Cause.UNMERGED.value],
            DAILY: [Cause.UNMERGED.value],
        }
        for pair in pairs:
            assert pair["same"]["window_end"] == pair["flow"]["window_end"] != pair["night"]["window_end"]

        # 3. Switch: the same file with another mode and time.
        platform.change(SWITCH)
        platform.command("config", "check")
        platform.command("reload")
        platform.command("plan")
        # The offload's last cycle brought no candle of a day.
        assert platform.ledger("SELECT status FROM offload_watermarks WHERE table_name = 'ohlcv_1d'") == [("running",)]
        report = platform.document("run", "--table", DAILY)
        assert report["outcome"] == "success"
        assert [(task["stage"], task["table"], task["outcome"]) for task in report["tasks"]] == [
            (stage, DAILY, "done") for stage in ("compact", "expire", "audit")
        ]

    # The first night.
    platform.clock.skip(night - HOUR)
    platform.clock.move(night - MINUTE)
    with platform.daemon(night):
        query = """
            SELECT iceberg_table, maintenance_tasks.outcome FROM maintenance_tasks JOIN maintenance_runs USING (run_id)
            WHERE slot = $1 AND stage = 'compact' ORDER BY 1
        """
        done = dict(platform.ledger(query, night))
        assert (done[BINANCE], done[HOURLY]) == ("done", "done")
        ((run_id,),) = platform.ledger("SELECT run_id FROM maintenance_runs WHERE slot = $1", night)
        assert str(run_id)[:8] in platform.command("history")
        platform.clock.skip(slot + DAY + 4 * HOUR)  # in the morning
        assert others(platform.document("doctor")) == [Level.OK.value]

    # 4. Switch back.
    platform.clock.skip(slot + 2 * DAY - HOUR)
    platform.flow_audits(slot + 2 * DAY)
    assert platform.ledger("SELECT count(*) FROM maintenance_audit_log WHERE run_id IS NULL") == [(2 * 3,)]
    end = slot + 2 * DAY - 10 * MINUTE
    for table in (BINANCE, HOURLY, DAILY):
        since = slot + 10 * MINUTE  # before it ClickHouse has gold's rows behind the watermark, too
        assert platform.world.rows_iceberg(table, since, end) == platform.world.rows_clickhouse(table, since, end) > 0
    # In the page's order; `run` without a table is its other way to the first night, and `serve` is there once.
    apart = ("run", "serve")
    assert [each for each in platform.ran if each not in apart] == [each for each in COMMANDS if each not in apart]


def causes_of(pair: Any) -> list[str]:
    return [explanation["cause"] for explanation in pair["explanations"]]
