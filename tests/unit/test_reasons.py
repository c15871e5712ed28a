"""The reasons: the words that were promised are all there, and each has one sentence of advice."""

from __future__ import annotations

import re

import pytest

from icekeeper.core.reasons import Reason

# Dashboards and alerts are made of these words: none may go, or be spelt another way.
PROMISED = [
    "nothing_small",
    "too_few_files",
    "nothing_expired",
    "audit_hold",
    "gc_disabled",
    "table_not_found",
    "conflict",
    "commit_unknown",
    "deadline",
    "budget",
    "cancelled",
    "engine_down",
    "engine_out_of_memory",
    "catalog_down",
    "storage_down",
    "access_denied",
    "source_down",
    "source_table_not_found",
    "source_expired",
    "source_empty",
    "offload_behind",
    "offload_running",
    "ledger_down",
    "disk_low",
    "clock_skew",
    "not_verified",
]


@pytest.mark.parametrize("code", PROMISED)
def test_every_reason_that_the_design_page_promises_exists(code: str) -> None:
    assert code in {reason.value for reason in Reason}


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_the_same_word_in_ledger_metric_log_and_page(reason: Reason) -> None:
    assert reason == reason.value == str(reason) == f"{reason}"
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason)
    assert reason.name == reason.value.upper()


@pytest.mark.parametrize("reason", Reason)
def test_the_advice_of_a_reason_is_one_sentence(reason: Reason) -> None:
    advice = reason.advice
    assert advice == advice.strip()
    assert advice[0].isupper()
    assert "\n" not in advice
    assert [match.start() for match in re.finditer(r"[.!?](?=\s|$)", advice)] == [len(advice) - 1], advice


def test_no_two_reasons_share_their_advice() -> None:
    assert len({reason.advice for reason in Reason}) == len(Reason)
