"""Mistakes and their origins: a line of the file, or an environment variable. Finding mistakes is done elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from icekeeper.settings.loading.document import Document, KeyPath

# A quoted value may be a whole page: the sentence is cut.
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Mistake:
    """One sentence about the key at a path. `line` and `variable`: its origin where the path does not give it."""

    at: KeyPath
    sentence: str
    line: int | None = None
    variable: str | None = None


class Origins:
    """Where each value comes from. `variables`: the environment variables by the paths of the keys that they set."""

    def __init__(self, document: Document, variables: Mapping[KeyPath, str]) -> None:
        self.document = document
        self.variables = variables

    def given(self, at: KeyPath) -> bool:
        """Whether the file or the environment has this key."""
        return self.document.line(at) is not None or at in self.variables

    def variable(self, at: KeyPath) -> str | None:
        """The variable that a value comes from: of its key, or of one above or below that the file does not have."""
        prefixes = [at[:length] for length in range(len(at), 0, -1)]
        for above in prefixes:
            if above in self.variables:
                return self.variables[above]
        for above in prefixes:
            if self.document.line(above) is not None:
                return None
            below = (name for path, name in self.variables.items() if path[: len(above)] == above)
            if (name := next(below, None)) is not None:
                return name
        return None

    def lines(self, mistakes: Iterable[Mistake]) -> list[str]:
        """One line each: in the order of the file, then the environment's, without duplicates."""
        return [text for _, text in sorted({self._placed(mistake): None for mistake in mistakes}, key=_by_line)]

    def _placed(self, mistake: Mistake) -> tuple[int | None, str]:
        sentence = mistake.sentence if len(mistake.sentence) <= _LONGEST else f"{mistake.sentence[:_LONGEST]}..."
        variable = mistake.variable or (self.variable(mistake.at) if mistake.line is None else None)
        if variable is not None:
            return None, f"environment variable {variable}: {sentence}"
        line = mistake.line or self.document.nearest_line(mistake.at)
        return line or 0, f"{self.document.place(line)}: {sentence}"


def _by_line(placed: tuple[int | None, str]) -> tuple[bool, int]:
    line, _ = placed
    return line is None, line or 0
