"""Asking on a terminal for what no option gives. Without a terminal a missing answer is an error that names the option.

Secrets that are typed in go to files of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from icekeeper.core.secrets import is_secret_setting

_FILE = "_file"
_SEPARATORS = re.compile("[?&;]")

# What is wrong with an answer; None: nothing.
Check = Callable[[str], str | None]


class Questions:
    """`secrets`: the directory beside the configuration for secrets that are typed in."""

    def __init__(self, *, terminal: bool, secrets: Path) -> None:
        self.terminal = terminal
        self._secrets = secrets
        self._missing: list[str] = []
        # By the paths of their files, as the configuration names them.
        self.typed: dict[str, str] = {}

    def ask(
        self,
        option: str,
        question: str,
        given: str | None,
        *,
        check: Check = lambda answer: None,
        default: str | None = None,
        choices: Sequence[str] = (),
    ) -> str:
        """The answer; empty where an option is missing, which `require_all` raises. `default` "": it may be empty."""
        if given is not None:
            given = given.lower() if choices else given
            if choices and given not in choices:
                raise click.UsageError(f"{option} {given}: there are {', '.join(choices)}")
            if why := _wrong(given, check):
                raise click.UsageError(f"{option}: {why}")
            return given
        if not self.terminal:
            if default is None:
                self._missing.append(option)
            return default or ""

        def read(answer: str) -> str:
            answer = answer.strip()
            if why := _wrong(answer, check) if answer or default is None else None:
                raise click.BadParameter(why)
            return answer

        answer: str = click.prompt(
            question,
            default=default,
            show_default=bool(default),
            type=click.Choice(choices) if choices else None,
            value_proc=None if choices else read,
            err=True,
        )
        return answer

    def require_all(self) -> None:
        """UsageError that names the options without which there is no answer."""
        if self._missing:
            raise click.UsageError(f"without a terminal these have to be given: {', '.join(self._missing)}")

    def secret(self, name: str, question: str) -> dict[str, str]:
        """Asks for a secret, which `keep` writes to a file; `NAME_file` with its path, or nothing."""
        if not self.terminal:
            return {}
        file = self._secrets / name
        kept = file.is_file()
        text = f"{question} ({f'empty: as in {file}' if kept else f'kept in {file}; empty: none'})"
        value = str(click.prompt(text, default="", hide_input=True, show_default=False, err=True)).strip()
        path = f"{self._secrets.name}/{name}"
        if value:
            self.typed[path] = value
        return {f"{name}{_FILE}": path} if value or kept else {}

    def revealed(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """A block with the secrets that were typed in place of their files, which are not written yet."""
        shown = dict[str, Any]()
        for key, value in block.items():
            if isinstance(value, str) and value in self.typed and key.endswith(_FILE):
                shown[key.removesuffix(_FILE)] = self.typed[value]
            else:
                shown[key] = self.revealed(value) if isinstance(value, Mapping) else value
        return shown

    def keep(self) -> None:
        """Writes the secrets that were typed in."""
        for path, value in self.typed.items():
            write_secret(self._secrets.parent / path, value)


def write_secret(file: Path, value: str) -> None:
    """A file that only this user can read; one that is there is replaced as a whole."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(f"{value}\n")
    draft.replace(file)


def properties_of(given: Sequence[str], option: str = "--property") -> dict[str, str]:
    """The properties of `NAME=VALUE`s. UsageError for one that has no value, or whose value is a secret."""
    properties = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise click.UsageError(f"{option} {name or text}: it is written NAME=VALUE")
        if name.endswith(_FILE):
            value = str(Path(value).expanduser().absolute())
        elif is_secret_setting(name) or password_in(value):
            raise click.UsageError(
                f"{option} {name}: secrets are kept out of the file. Write its value to a file, and give "
                f"{option} {name}{_FILE}=THE_FILE"
            )
        properties[name] = value
    return properties


def _wrong(answer: str, check: Check) -> str | None:
    if not answer.isprintable():
        return "it holds a character that can't be printed"
    if password_in(answer):
        return "it holds a password: secrets are kept out of the file"
    return check(answer)


def password_in(text: str) -> bool:
    """Whether a URL, also JDBC's, holds a password. One that is empty is none."""
    url = text.removeprefix("jdbc:")
    user, at, _ = url.partition("//")[2].partition("/")[0].rpartition("@")
    given = (part.partition("=") for part in _SEPARATORS.split(url)[1:])
    return bool(at and user.partition(":")[2]) or any(is_secret_setting(name) and value for name, _, value in given)
