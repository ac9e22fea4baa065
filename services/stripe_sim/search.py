"""Stripe's search language, as far as look-ups use it: clauses joined by AND, or by OR.

A clause is `field:"text"`, `field~"part"`, `-field:"text"`, `metadata["key"]:"text"` or
`created>123` (also `<`, `>=`, `<=`).
"""

import re
from collections.abc import Callable
from typing import Any

from services.stripe_sim.errors import invalid
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

QUERY_CHARACTERS_MAX = 2000
CLAUSES_MAX = 10

_CLAUSE = re.compile(
    r"\s*(?P<not>-)?(?P<field>[a-z_.]+)(?:\[(?P<quote>[\"'])(?P<key>[^\"']{1,40})(?P=quote)\])?"
    r"\s*(?P<operator>:|~|>=|<=|>|<)\s*"
    r"(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[\w.-]+))\s*",
    re.ASCII,
)
_JOIN = re.compile(r"(AND|OR)\s", re.IGNORECASE)

Test = Callable[[Obj], bool]


def search(scope: Scope, kind: str, query: str) -> list[Obj]:
    """Return the account's objects of a kind that a query matches, oldest first.

    Raises:
        ApiError: the query cannot be read.
    """
    tests, any_of = _parse(query)
    decide = any if any_of else all
    return [
        obj
        for obj in scope.all(kind)
        if not obj.get("deleted") and decide(test(obj) for test in tests)
    ]


def _parse(query: str) -> tuple[list[Test], bool]:
    if len(query) > QUERY_CHARACTERS_MAX:
        raise invalid(f"A query has at most {QUERY_CHARACTERS_MAX} characters.", "query")
    tests: list[Test] = []
    joins: set[str] = set()
    place = 0
    while True:
        match = _CLAUSE.match(query, place)
        if match is None:
            raise invalid(
                f"We were unable to parse your search query near: {query[place : place + 40]}",
                "query",
            )
        tests.append(_test(match))
        place = match.end()
        if place >= len(query):
            break
        join = _JOIN.match(query, place)
        if join is not None:
            joins.add(join.group(1).upper())
            place = join.end()
    if len(tests) > CLAUSES_MAX or len(joins) > 1:
        raise invalid(
            f"A query has at most {CLAUSES_MAX} clauses, joined by AND or by OR.", "query"
        )
    return tests, joins == {"OR"}


def _test(match: re.Match[str]) -> Test:
    wanted = next(
        text for name in ("double", "single", "bare") if (text := match[name]) is not None
    )
    operator, field, key = match["operator"], match["field"], match["key"]
    unset = wanted == "null" and match["bare"] is not None

    def holds(obj: Obj) -> bool:
        value = _field(obj, field, key)
        if unset or value is None:
            return unset and value is None
        if operator == ":":
            return str(value).lower() == wanted.lower()
        if operator == "~":
            return wanted.lower() in str(value).lower()
        return _compares(value, operator, wanted)

    if match["not"]:
        return lambda obj: not holds(obj)
    return holds


def _field(obj: Obj, field: str, key: str | None) -> Any:
    if key is not None:
        return (obj.get(field) or {}).get(key)
    value: Any = obj
    for step in field.split("."):
        value = value.get(step) if isinstance(value, dict) and step != "_sim" else None
    return value


def _compares(value: Any, operator: str, wanted: str) -> bool:
    if type(value) is not int or not wanted.lstrip("-").isdigit() or len(wanted) > 18:
        return False
    number = int(wanted)
    return {
        ">": value > number,
        "<": value < number,
        ">=": value >= number,
        "<=": value <= number,
    }[operator]
