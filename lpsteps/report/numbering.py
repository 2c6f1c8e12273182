"""Numbers for things that many places share, so that each is stored once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from lpsteps.artifacts import canonical_json


@dataclass(frozen=True)
class Numbered:
    """Numbers entries in the order in which they are first asked for."""

    entries: list[Any] = field(default_factory=list)
    numbers: dict[Hashable, int] = field(default_factory=dict)

    def number(self, key: Hashable, entry: Any) -> int:
        """Return the number of a key, and keep its entry the first time."""
        if key not in self.numbers:
            self.numbers[key] = len(self.entries)
            self.entries.append(entry)
        return self.numbers[key]

    def number_of(self, entry: Any) -> int:
        """Return the number of plain data, the same for equal data."""
        return self.number(canonical_json(entry), entry)
