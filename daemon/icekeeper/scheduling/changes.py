"""Compares two configurations: which keys differ, and what a running daemon does about each."""

from __future__ import annotations

from typing import Any

from icekeeper.core.errors import ConfigError
from icekeeper.settings import Settings
from icekeeper.settings.export import redacted

# What a change of a block brings about. All others take effect in the next run, which reads its policies anew.
_EFFECTS = {
    "schedule": "rescheduled",
    "spark": "the session is recycled between runs",
    "catalog": "the session is recycled between runs",
    "clickhouse": "connection rebuilt",
    "postgres": "pool rebuilt",
    "offload": "pool rebuilt",
    "http": "applied",
    "logs": "applied",
    "notify": "applied",
    "replicas": "applied",
}
_NEXT_RUN = "from the next run on"


def refuse_unchangeable(old: Settings, new: Settings) -> None:
    """ConfigError where a key differs that can't change while the daemon runs."""
    if old.state_dir != new.state_dir:
        raise ConfigError(
            [
                f"state_dir: it can't change while the daemon runs ({old.state_dir} -> {new.state_dir}): its lock, "
                "spool and control socket are there. Restart the daemon, or set it back"
            ]
        )


def changes(old: Settings, new: Settings) -> tuple[str, ...]:
    """A line per difference: the key, both values (secrets hidden), the effect. Empty where there is none."""
    before, after = _flat(redacted(old)), _flat(redacted(new))
    lines = []
    for block in type(new).model_fields:
        if getattr(old, block) == getattr(new, block):
            continue
        if block == "tables":
            lines += _tables(old, new)
            continue
        effect = _EFFECTS.get(block, _NEXT_RUN)
        keys = [key for key in (before | after) if key.split(".")[0] == block and before.get(key) != after.get(key)]
        lines += [f"{key}: {_text(before.get(key))} -> {_text(after.get(key))}: {effect}" for key in keys]
        if not keys:  # only secrets differ
            lines.append(f"{block}: a secret of it: {effect}")
    return tuple(lines)


def _tables(old: Settings, new: Settings) -> list[str]:
    before = {policy.name: policy for policy in old.policies()}
    after = {policy.name: policy for policy in new.policies()}
    lines = [f"tables: {name} added" for name in after if name not in before]
    lines += [f"tables: {name} dropped" for name in before if name not in after]
    lines += [
        f"tables: {name} changed: {_NEXT_RUN}" for name in after if name in before and before[name] != after[name]
    ]
    return lines or [f"tables: in another order, or changed where they are disabled: {_NEXT_RUN}"]


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {key: value}
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= _flat(item, f"{key}.{name}" if key else str(name))
    return found


def _text(value: Any) -> str:
    return "unset" if value is None else str(value)
