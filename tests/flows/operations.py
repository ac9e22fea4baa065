"""Every operation of the API, out of the generated document, with what may be sent to it.

Samples are drawn from the schemas by a seeded generator: `sample` makes what is fine, `spoil` puts
something hostile in its place.
"""

import copy
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libs.web.auth import ANYONE_SIGNED_IN, OPERATOR

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "api" / "openapi.json"
WORDS = {"the platform's staff": OPERATOR, "any valid credentials": ANYONE_SIGNED_IN}


PEOPLE_ONLY = frozenset(
    {
        "list_sessions",
        "end_other_sessions",
        "end_session",
        "export_own_personal_data",
    }
)
"""What concerns the caller as a person: any key, an operator's too, is refused."""

BY_OBJECT: Mapping[str, str] = {
    "put_tenant": "tenants:manage",
    "put_tenant_alias": "tenants:manage",
}
"""Operations that anybody signed in may try; on a tenant that exists they need this permission."""


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        permission: what a caller needs; None for the few that anybody may call.
        service: who answers it.
        queries: the schema of each query parameter.
        body: the schema of the JSON body, None where there is none.
        takes_body: whether a body may be sent at all.
    """

    id: str
    method: str
    path: str
    permission: str | None
    service: str
    path_names: tuple[str, ...]
    queries: Mapping[str, Any] = field(hash=False, compare=False)
    body: Mapping[str, Any] | None = field(hash=False, compare=False)
    takes_body: bool = False

    def __str__(self) -> str:
        """How a test of it is called."""
        return self.id

    def at(self, values: Mapping[str, str]) -> str:
        """The path with its parameters, which must be escaped already."""
        return self.path.format(**{name: values[name] for name in self.path_names})


def read_operations() -> tuple[Operation, ...]:
    """All operations of the document, in its order."""
    document = json.loads(DOCUMENT.read_text())
    return tuple(
        _operation(document, path, method, described)
        for path, item in document["paths"].items()
        for method, described in item.items()
    )


def _operation(document: Any, path: str, method: str, described: Any) -> Operation:
    parameters = described.get("parameters", [])
    content = described.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    return Operation(
        id=described["operationId"],
        method=method.upper(),
        path=path,
        permission=_permission(described),
        service=described["tags"][0],
        path_names=tuple(each["name"] for each in parameters if each["in"] == "path"),
        queries={
            each["name"]: resolve(document, each["schema"])
            for each in parameters
            if each["in"] == "query"
        },
        body=None if schema is None else resolve(document, schema),
        takes_body="requestBody" in described,
    )


def _permission(described: Any) -> str | None:
    if not described["security"]:
        return None
    needs = re.search(r"Needs (.+)\.$", described["description"])
    assert needs, f"{described['operationId']} does not say what it needs"
    return WORDS.get(needs[1], needs[1].strip("`"))


def resolve(document: Any, schema: Any) -> Any:
    """The schema with every reference replaced by what it refers to."""
    if isinstance(schema, list):
        return [resolve(document, each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return resolve(document, document["components"]["schemas"][name])
    return {name: resolve(document, each) for name, each in schema.items()}


def sample(schema: Mapping[str, Any], rng: random.Random, name: str = "") -> Any:
    """Something that the schema describes; texts are such that most fields take them."""
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return sample(rng.choice(choices), rng, name)
    if "const" in schema or "enum" in schema:
        return rng.choice(schema.get("enum") or [schema["const"]])
    simple = {"integer": rng.randrange(1, 10_000), "boolean": rng.random() < 0.5, "null": None}
    kind = schema.get("type")
    if kind == "object":
        return {
            key: sample(each, rng, key)
            for key, each in schema.get("properties", {}).items()
            if key in schema.get("required", ()) or rng.random() < 0.5
        }
    if kind == "array":
        count = rng.randrange(schema.get("minItems", 0), 3)
        return [sample(schema["items"], rng, name) for _ in range(count)]
    return simple[kind] if kind in simple else _text(schema, rng, name)


TEXTS: Mapping[str, tuple[str, ...]] = {
    "currency": ("EUR", "USD", "JPY"),
    "scopes": ("usage:read", "billing:read"),
    "locale": ("en", "de-CH"),
    "customer_email": ("payer@mallory.example",),
    "owner_email": ("owner@mallory.example",),
    "billing_email": ("bills@mallory.example",),
    "email": ("nobody@mallory.example",),
    "success_url": ("https://mallory.example/ok",),
    "cancel_url": ("https://mallory.example/no",),
    "return_url": ("https://mallory.example/back",),
}
"""What fields want that take only certain texts."""


def _text(schema: Mapping[str, Any], rng: random.Random, name: str) -> str:
    if name in TEXTS:
        return rng.choice(TEXTS[name])
    if schema.get("format") == "date-time":
        return f"2031-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}T12:00:00Z"
    if "[0-9]{1,15}" in schema.get("pattern", ""):
        return str(rng.randrange(1, 1_000))
    return f"x{rng.randrange(16**6):06x}"


LONG = "x" * 10_000
HOSTILE_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "' OR 1=1; DROP TABLE tenant; --",
    '"><script>alert(1)</script>',
    "x\r\nSet-Cookie: a=b",
    "x\x00y",
    "\u202egnp.exe",
    "\U0001f4a9" * 20,
    "../../../../etc/passwd",
    "${jndi:ldap://127.0.0.1/a}",
    "{{7*7}}%s%n",
    "file:///etc/passwd",
    "=cmd|' /C calc'!A0",
    "00000000-0000-0000-0000-000000000000",
    "inv_00000000-0000-0000-0000-000000000000",
    LONG,
)
"""What is put where a text is expected."""

HOSTILE_NUMBERS: tuple[Any, ...] = (
    0,
    -1,
    10**9,
    2**31,
    2**63,
    -(2**63) - 1,
    10**30,
    1.5,
    -0.5,
    1e308,
)
HOSTILE_TIMES: tuple[str, ...] = (
    "now",
    "2026-02-30T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-01-01",
    "2026-01-01T00:00:00",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "1e400",
    "99999999999999999999",
    "-62135596801",
    "2026-03-29T02:30:00+25:00",
)
HOSTILE_CURSORS: tuple[str, ...] = (
    "x",
    "====",
    "bnVsbA",
    "WzEsMl0",
    "WyIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsICJ4Il0",
    "W251bGwsbnVsbF0",
    "eyJhIjoxfQ",
    "W1tbW1tbW1tbW1tb",
)
HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    [],
    {},
    [[[]]],
    {"$ne": None},
    ["x", 1, None],
    *HOSTILE_NUMBERS,
    *HOSTILE_TEXTS,
    *HOSTILE_TIMES,
    "\ud800",
)
"""What is put in place of any member of a body."""

FURTHER_MEMBERS = ("tenant_id", "id", "status", "role", "operator", "balance", "__proto__", "x\x00")


def spoil(body: Any, rng: random.Random) -> Any:
    """A copy of a body with one thing wrong: a value replaced, a member missing or too many."""
    spoiled = copy.deepcopy(body)
    places = list(_places(spoiled))
    if not places or rng.random() < 0.1:
        if isinstance(spoiled, dict):
            spoiled[rng.choice(FURTHER_MEMBERS)] = rng.choice(HOSTILE_VALUES)
            return spoiled
        return rng.choice(HOSTILE_VALUES)
    holder, key = rng.choice(places)
    if isinstance(holder, dict) and rng.random() < 0.1:
        del holder[key]
    else:
        holder[key] = rng.choice(HOSTILE_VALUES)
    return spoiled


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    pairs: Any = ()
    if isinstance(node, dict):
        pairs = node.items()
    elif isinstance(node, list):
        pairs = enumerate(node)
    for key, value in list(pairs):
        yield node, key
        yield from _places(value)


def hostile_queries(schema: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """What to try in a query parameter, by what it should hold."""
    described = json.dumps(schema)
    if name == "cursor":
        return (*HOSTILE_CURSORS, *HOSTILE_TEXTS)
    if '"integer"' in described:
        return ("-1", "0", "1000000000", str(10**30), "1.5", "1e3", "", "x", "0x10", "٣")
    if '"date-time"' in described:
        return (*HOSTILE_TIMES, "", "x\x00y", "' OR 1=1; --", LONG)
    if '"enum"' in described or '"boolean"' in described:
        return ("", "x", "x\x00y", "' OR 1=1; --", LONG)
    return (*HOSTILE_TEXTS, "-1", "1e400")
