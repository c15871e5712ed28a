"""Notes about settings that are fine: what they mean where not everybody expects it. Warnings: warnings.py."""

from __future__ import annotations

from collections.abc import Iterator

from icekeeper.core.policy import TablePolicy
from icekeeper.settings.messages.warnings import by_table
from icekeeper.settings.model import Settings
from icekeeper.settings.systems import Spark


def notes(settings: Settings) -> list[str]:
    """One sentence each."""
    policies = settings.policies()
    return [
        *_about_threads(settings),
        *by_table(policies, _about_packing),
        *by_table(policies, _about_tolerance),
        *by_table(policies, _about_replaced_files),
    ]


def _about_threads(settings: Settings) -> Iterator[str]:
    """The shipped file of 0.1 had today's slow way in it, and lives on in copies."""
    spark = settings.spark
    if spark.fewer_threads:
        usual = Spark(driver_memory=spark.driver_memory).resolved_master
        old = " (it was the default of 0.1)" if spark.master == "local[2]" else ""
        yield (
            f"spark.master ({spark.master}) reads fewer files at once than auto, which is {usual} with this heap{old}: "
            "set spark.master to auto, or leave it to spare processors"
        )


def _about_packing(policy: TablePolicy) -> Iterator[str]:
    if policy.compact.enabled and policy.compact.strategy == "binpack":
        yield (
            "compact.strategy (binpack){of} has one task read the small files that become one, one after another (it "
            "was the default of 0.1): set compact.strategy to auto, which has many tasks read them"
        )


def _about_tolerance(policy: TablePolicy) -> Iterator[str]:
    if policy.audit is not None and policy.audit.warning_pct > 0:
        share = f"{policy.audit.warning_pct.normalize():f}"
        yield (
            f"an audit{{of}} is ok while no more than {share} % of a day's rows are missing (audit.warning_pct); a day "
            "is certified only where none is; audit.warning_pct: 0 makes every missing row a warning"
        )


def _about_replaced_files(policy: TablePolicy) -> Iterator[str]:
    if policy.compact.enabled and not policy.expire.enabled:
        yield "expire{of} is off: the files that compactions replace stay in the store until another job expires them"
