"""What is measured: each rival does the same jobs in its own way. What they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from bench.record import Output, Store
from bench.warehouse import Base, Warehouse
from icekeeper.core.enums import Stage


class RivalFailed(Exception):
    """It did not do what it was asked for; the message says what was found instead."""


@dataclass(frozen=True, slots=True)
class Job:
    """Tables of one warehouse (`bases` are what they were copied from), and what is to be done with each of them.

    `recorded`: it is a whole night, which a daemon writes down. `input_files`: of each table.
    """

    warehouse: Warehouse
    tables: tuple[str, ...]
    bases: tuple[Base, ...]
    stages: tuple[Stage, ...]
    source: str
    recorded: bool
    input_files: int


# Who takes minutes for no world.
ALL_TABLES: Mapping[Store, int] = MappingProxyType({})


class Rival(Protocol):
    """One way to do jobs. `parts` are those of the benchmark that it takes part in.

    `most_tables` keeps one that takes minutes to fewer tables, by store; `note` says what a reader has to know of it.
    """

    @property
    def name(self) -> str: ...

    @property
    def parts(self) -> frozenset[str]: ...

    @property
    def most_tables(self) -> Mapping[Store, int]: ...

    @property
    def note(self) -> str: ...

    @property
    def frees_late(self) -> bool:
        """Whether its expiry keeps what a rewrite replaced for as long as the rewrite's own snapshot is there."""

    async def do(self, job: Job) -> Output | None:
        """Does the job; this is what is timed. Only who commits nothing says what it wrote."""
