"""The table of endpoints: which function answers which method and path, taking what."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.stripe_sim.params import Schema
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

Handler = Callable[..., Obj]


@dataclass(frozen=True)
class Endpoint:
    """One operation of the API."""

    method: str
    segments: tuple[str, ...]
    schema: Schema
    handler: Handler

    def arguments(self, segments: list[str]) -> list[str] | None:
        """Return the path's own arguments where it matches, else None."""
        found = []
        for expected, given in zip(self.segments, segments, strict=True):
            if expected == "{}":
                found.append(given)
            elif expected != given:
                return None
        return found


_table: dict[tuple[str, int], list[Endpoint]] = {}


def endpoint(method: str, path: str, schema: Schema | None = None) -> Callable[[Handler], Handler]:
    """Register a handler: called with the scope, the parameters and the `{}` of its path."""

    def register(handler: Handler) -> Handler:
        segments = tuple(path.strip("/").split("/"))
        entries = _table.setdefault((method, len(segments)), [])
        entries.append(Endpoint(method, segments, schema or {}, handler))
        entries.sort(key=lambda entry: entry.segments.count("{}"))
        return handler

    return register


def match(method: str, path: str) -> tuple[Endpoint, list[str]] | None:
    """Return the endpoint for a method and path with the path's arguments; literals win."""
    segments = path.strip("/").split("/")
    for entry in _table.get((method, len(segments)), []):
        arguments = entry.arguments(segments)
        if arguments is not None:
            return entry, arguments
    return None


def endpoints() -> list[Endpoint]:
    """Return every registered endpoint."""
    return [entry for entries in _table.values() for entry in entries]


Params = dict[str, Any]
__all__ = ["Endpoint", "Obj", "Params", "Scope", "endpoint", "endpoints", "match"]
