"""Which of the installations in a ledger a configuration is of."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from icekeeper.adapters.ledger.identity import Identity, Installed, find
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason

ABC = frozenset({"cold.a", "cold.b", "cold.c"})
LAKE = Installed(UUID(int=1), "lake", "here", ABC)
# The rehearsal of the same tables, in another catalog.
TRIAL = Installed(UUID(int=2), "trial", "there", ABC)
# Of another team, with a table of the lake by mistake.
TEAM = Installed(UUID(int=3), "team", "here", frozenset({"cold.c", "cold.d"}))
KNOWN = (LAKE, TRIAL, TEAM)
LOST = Installed(UUID(int=9), "lost")


def of(name: str | None = None, catalog: str = "here", tables: str = "abc") -> Identity:
    return Identity(name, "k2", catalog, tuple(f"cold.{letter}" for letter in tables))


@pytest.mark.parametrize(
    ("identity", "kept", "expected"),
    [
        pytest.param(of(), None, LAKE, id="a lost state_dir, or another replica's"),
        pytest.param(of(tables="ab"), None, LAKE, id="with a table less"),
        pytest.param(of(tables="abcd"), None, LAKE, id="with a table more"),
        pytest.param(of(tables="cd"), None, TEAM, id="the other one of the same catalog"),
        pytest.param(of(tables="cde"), None, TEAM, id="the other one, with a table more"),
        pytest.param(of(tables="axyz"), None, None, id="one table by mistake is not enough"),
        pytest.param(of(tables="xyz"), None, None, id="other tables"),
        pytest.param(of(tables=""), None, None, id="no tables"),
        pytest.param(of(catalog="there"), None, TRIAL, id="the same tables of another catalog"),
        pytest.param(of(catalog="elsewhere"), None, None, id="a catalog that none has"),
        pytest.param(of(catalog="elsewhere"), LAKE, LAKE, id="a warehouse that has moved"),
        pytest.param(of(catalog="there"), LAKE, LAKE, id="a warehouse that has moved to where another is"),
        pytest.param(of(tables="xyz"), LAKE, LAKE, id="all tables changed"),
        pytest.param(of(), LOST, LAKE, id="a ledger that was made anew by another replica"),
        pytest.param(of(tables="xyz"), LOST, None, id="a ledger that was made anew"),
        pytest.param(of("trial", tables="xyz"), None, TRIAL, id="by its name in the settings"),
        pytest.param(of("new", tables="xyz"), None, None, id="a new name for other tables"),
        pytest.param(of("new", catalog="elsewhere"), None, None, id="a new name for another catalog"),
        pytest.param(of("trial"), LOST, TRIAL, id="by its name, in a ledger that was made anew"),
        pytest.param(of("lake", catalog="elsewhere"), LAKE, LAKE, id="by both"),
    ],
)
def test_a_configuration_is_of_one_installation_or_of_a_new_one(
    identity: Identity, kept: Installed | None, expected: Installed | None
) -> None:
    assert find(identity, kept, KNOWN) == expected


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("new", "run `icekeeper ledger rename new`, or, if this is to be another one, remove installation.json there"),
        ("trial", "write `installation: lake`, or remove installation.json there to share the rows of 'trial'"),
    ],
)
def test_settings_that_contradict_the_state_dir_are_refused(name: str, advice: str) -> None:
    with pytest.raises(PermanentError) as refused:
        find(of(name), LAKE, KNOWN)
    assert str(refused.value) == (f"state_dir is of the installation 'lake', and the settings name '{name}': {advice}")
    # What waits is held, not quarantined.
    assert refused.value.reason is Reason.LEDGER_DOWN


@pytest.mark.parametrize("kept", [None, LOST], ids=["no file", "a file of a ledger before"])
def test_a_new_name_where_no_file_tells_whose_it_is_has_to_be_given_by_rename(kept: Installed | None) -> None:
    with pytest.raises(PermanentError, match=r"as 'lake', .* it 'new': run `icekeeper ledger rename new`") as refused:
        find(of("new"), kept, KNOWN)
    assert refused.value.reason is Reason.LEDGER_DOWN


@pytest.mark.parametrize(
    ("identity", "found"),
    [
        (of(), LAKE),
        (of("lake", catalog="otherwise"), LAKE),
        (of(catalog="otherwise"), "'lake'"),
        (of(tables="axyz"), "'lake'"),
        (of(tables="xyz"), None),
    ],
    ids=["alike", "named", "another spelling of the catalog", "a table in common", "nothing in common"],
)
def test_replicas_that_share_tables_with_another_installation_have_to_be_named(
    identity: Identity, found: Installed | str | None
) -> None:
    identity = replace(identity, replicas=True)
    if not isinstance(found, str):
        assert find(identity, None, KNOWN) == found
        return
    with pytest.raises(PermanentError, match=f"installation {found}.* write `installation: ") as refused:
        find(identity, None, KNOWN)
    assert refused.value.reason is Reason.LEDGER_DOWN
