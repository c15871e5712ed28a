"""A whole lakehouse on one machine from pip packages, and an offload that writes days of trades into it.

    with Sandbox.start() as box:
        world = box.world(WorldSpec(now=datetime.now(UTC), tables=("cold.silver_trades",)))
        config = world.write_config(Path("icekeeper.yaml"), state_dir=Path("state"))
        Offload(world).run(at=datetime.now(UTC))

A world is what the platform is: `WorldSpec.generation` chooses between two generations of its tables, and a cycle of
the offload that brings no rows leaves the status `running`. `OffloadClock` plays the cycles by the world's clock.

A hole in a table, which is what an audit is to find, can be made in three ways: `WorldSpec.lost` (the offload lost an
hour while the world was built), `Offload.run` or `advance` with `lose` (it loses hours of a later day), and
`World.late_rows` or `lose_hour` (rows arrive in ClickHouse behind the watermark).

The package imports nothing of the daemon, so that other tools can be tested and measured in it, too.
"""

from __future__ import annotations

from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.offload import Offload, OffloadClock
from icekeeper.sandbox.sandbox import Sandbox
from icekeeper.sandbox.table_shapes import TABLES, TableShape
from icekeeper.sandbox.world import World, WorldTable
from icekeeper.sandbox.world_spec import WorldSpec

__all__ = [
    "TABLES",
    "Offload",
    "OffloadClock",
    "Sandbox",
    "SandboxError",
    "TableShape",
    "World",
    "WorldSpec",
    "WorldTable",
]
