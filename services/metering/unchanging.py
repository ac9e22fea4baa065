"""What never changes once it is there, kept at hand: nothing has to ask Postgres for it twice.

Only what was found may be kept: what is not there yet may come at any moment, and in any process.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)
Thing = TypeVar("Thing")

KEPT_MAX = 10_000


class Unchanging(Generic[Name, Thing]):
    """Things by name; beyond so many the one that came first is forgotten."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._found: dict[Name, Thing] = {}

    def find(self, name: Name) -> Thing | None:
        """The thing of this name, where it is at hand."""
        return self._found.get(name)

    def keep(self, name: Name, thing: Thing) -> None:
        """Have a thing at hand from now on."""
        while len(self._found) >= self._kept_max:
            del self._found[next(iter(self._found))]
        self._found[name] = thing
