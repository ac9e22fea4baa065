"""The matrix: every operation of the API for every kind of caller, cell by cell.

What a cell must be follows from two things and nothing else: the permission each operation declares
(`Requires`) and the one table of what each role has (services/tenants/roles.py). A caller that
may is never answered 401 or 403, whatever else is wrong with its request; one that may not is
refused before anything of the request is looked at, and each such refusal is a security event.

Objects named in paths do not exist, so an operation that is allowed harms nothing; that other
tenants' objects are as absent as these is shown in test_isolation.py.
"""

import json
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID

import httpx
import pytest

from cli import proof
from cli.api import eventually
from deploy.local.stack import Stack
from libs.web.alarms import REFUSALS_TOLD_AT_ONCE
from services.tenants.roles import PERMISSIONS
from tests.flows.callers import Caller, House, Key, Nobody, Person, house
from tests.flows.operations import BY_OBJECT, PEOPLE_ONLY, Operation, read_operations

pytestmark = pytest.mark.flow

OPERATIONS = read_operations()
SECURED = [each for each in OPERATIONS if each.permission is not None]
PUBLIC = [each for each in OPERATIONS if each.permission is None]
CALLERS = (
    "anonymous",
    *PERMISSIONS,
    "operator",
    "operator's key",
    "another's owner",
    "another's owner, naming us",
    "little key",
    "little key, other scope",
)
BODIES = {name: {"name": "Matrix"} for name in BY_OBJECT}
"""Where the refusal depends on the body being one."""

STRANGERS = ("another's owner", "another's owner, naming us")

Event = tuple[str, str, str, str, str | None]
"""A refusal as the audit log has it: who, what kind, method, path, permission."""


@dataclass
class Matrix:
    """A tenant, its callers, and the refusals that the log must have in the end."""

    ours: House
    other: House
    http: httpx.AsyncClient
    callers: Mapping[str, Caller]
    refused: list[tuple[UUID, Event]] = field(default_factory=list)
    cells: int = 0

    async def ask(self, operation: Operation, caller: Caller) -> httpx.Response:
        """One request; absent objects, no body worth the name."""
        values = {name: f"none-{name}" for name in operation.path_names}
        values["tenant"] = self.ours.slug
        self.cells += 1
        return await self.http.request(
            operation.method,
            operation.at(values),
            headers=await caller.headers(),
            json=BODIES.get(operation.id, {}) if operation.takes_body else None,
        )


@pytest.fixture(scope="module")
async def matrix(stack: Stack) -> AsyncGenerator[Matrix, None]:
    environment = stack.environment()
    async with AsyncExitStack() as opened:
        ours = await opened.enter_async_context(house(environment, "matrix"))
        other = await opened.enter_async_context(house(environment, "other"))
        people = [await ours.person(role) for role in PERMISSIONS]
        strangers = [await other.person("owner") for _ in STRANGERS]
        for stranger, name, named in zip(strangers, STRANGERS, (None, ours.tenant_id), strict=True):
            stranger.name, stranger.named = name, named
        operator = await ours.staff()
        operators_key = _OperatorsKey(environment["SLUICE_OPERATOR_KEY"], ours.tenant_id)
        made = {scope: await ours.make_key(scope) for scope in ("usage:write", "tenants:read")}
        keys = [
            Key(name, made[scope]["key"], frozenset({scope}))
            for name, scope in (
                ("little key", "usage:write"),
                ("little key, other scope", "tenants:read"),
            )
        ]
        everybody: list[Caller] = [Nobody(), *people, operator, operators_key, *keys]
        callers = {each.name: each for each in (*everybody, *strangers)}
        assert callers.keys() == set(CALLERS)
        http = await opened.enter_async_context(httpx.AsyncClient(base_url=ours.origin, timeout=60))
        yield Matrix(ours, other, http, callers)
        for person in (*people, operator, *strangers):
            await person.http.aclose()


@dataclass(frozen=True)
class _OperatorsKey:
    key: str = field(repr=False)
    named: str
    name: str = "operator's key"

    def may(self, permission: str) -> bool:  # noqa: ARG002 - the staff may everything
        return True

    async def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "X-Tenant-ID": self.named}


def needed(operation: Operation) -> str:
    """The permission that a caller needs here, where the tenant and its objects exist."""
    assert operation.permission is not None
    return BY_OBJECT.get(operation.id, operation.permission)


def expected(operation: Operation, caller: Caller) -> tuple[int, str] | None:
    """Status and code of the refusal; None where the caller may."""
    permission = needed(operation)
    if isinstance(caller, Nobody):
        return 401, "unauthorized"
    names_us = caller.name == STRANGERS[1] or "tenant" in operation.path_names
    if caller.name in STRANGERS and names_us:
        return 403, "tenant_forbidden"
    is_person = isinstance(caller, Person)
    if caller.may(permission) and (is_person or operation.id not in PEOPLE_ONLY):
        return None
    if permission.startswith("billing:"):
        return 403, "insufficient_billing_permissions"
    return 403, "insufficient_permissions"


@pytest.mark.parametrize("name", CALLERS)
@pytest.mark.parametrize("operation", SECURED, ids=str)
async def test_cell(matrix: Matrix, operation: Operation, name: str) -> None:
    caller = matrix.callers[name]
    refusal = expected(operation, caller)
    answer = await matrix.ask(operation, caller)
    if refusal is None:
        assert answer.status_code < 500, answer.text
        assert answer.status_code not in (401, 403), answer.text
        return
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == refusal, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"]
    if refusal[0] == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        return
    if refusal[1] != "tenant_forbidden":
        assert problem["permission"] == needed(operation)
    matrix.refused.append(_event(matrix, caller, answer, refusal[1], problem.get("permission")))


def _event(
    matrix: Matrix, caller: Caller, answer: httpx.Response, code: str, permission: str | None
) -> tuple[UUID, Event]:
    """Which chain tells of the refusal, and what: a stranger's stands in its own tenant's log."""
    kind = "tenant_denied" if code == "tenant_forbidden" else "permission_denied"
    home = matrix.other if caller.name in STRANGERS else matrix.ours
    request = answer.request
    told = (caller.name, kind, request.method, request.url.path, permission)
    return UUID(home.tenant_id), told


@pytest.mark.parametrize("operation", PUBLIC, ids=str)
async def test_credentials_change_nothing_where_none_are_asked_for(
    matrix: Matrix, operation: Operation
) -> None:
    answers = [await matrix.ask(operation, caller) for caller in matrix.callers.values()]
    told = {(each.status_code, each.json()["code"]) for each in answers}
    assert len(told) == 1, told
    assert next(iter(told))[0] in (400, 403, 404, 422), told


async def test_afterwards_every_refusal_is_a_security_event(matrix: Matrix) -> None:
    # Given the refusals of the cells that this run has tried (all, unless some were picked), which
    # are not so many of one caller that any is left out,
    assert max(Counter(each.service for each in SECURED).values()) < REFUSALS_TOLD_AT_ONCE
    actors = await _actors(matrix)
    wanted = {(home, (actors[event[0]], *event[1:])) for home, event in matrix.refused}

    # then each stands in the log, with the actor, the method, the path and the permission.
    async def all_told() -> bool:
        missing.clear()
        missing.update(wanted - await _told(matrix))
        return not missing

    missing: set[tuple[UUID, Event]] = set()
    try:
        await eventually("the entries of all refusals", all_told)
    finally:
        assert missing == set()


async def _actors(matrix: Matrix) -> dict[str, str]:
    """How the log names each caller."""
    admin = await proof.connect(matrix.ours.environment)
    try:
        found = {}
        for name, caller in matrix.callers.items():
            if isinstance(caller, Person):
                found[name] = caller.user_id
            elif isinstance(caller, Key | _OperatorsKey):
                sql = "select 'key_' || key_id from tenants.api_key where $1 like '%' || prefix || '%'"
                found[name] = await admin.fetchval(sql, caller.key)
        return found
    finally:
        await admin.close()


async def _told(matrix: Matrix) -> set[tuple[UUID, Event]]:
    admin = await proof.connect(matrix.ours.environment)
    try:
        rows = await admin.fetch(
            "select tenant_id, actor, action, content->'data' as data from tenants.audit_entry "
            "where tenant_id = any ($1) and kind = 'security'",
            [UUID(matrix.ours.tenant_id), UUID(matrix.other.tenant_id)],
        )
    finally:
        await admin.close()
    told = set()
    for row in rows:
        data = json.loads(row["data"])
        event = (row["actor"], row["action"], data["method"], data["path"], data["permission"])
        told.add((row["tenant_id"], event))
    return told
