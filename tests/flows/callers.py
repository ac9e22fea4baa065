"""Who calls the API in these tests: nobody, people of every role, the staff, and keys.

People sign in as the console does (e-mail, password, cookie) and send assertions, made anew before
the one before runs out.
"""

import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import httpx
from argon2 import PasswordHasher

from cli import proof
from cli.api import Api
from libs.clock import utc_now
from libs.ids import new_id
from libs.web.auth import ANYONE_SIGNED_IN, IMPLIED, OPERATOR

PASSWORD = "correct horse battery staple"
ASSERTION_FRESH_SECONDS = 40


class Caller(Protocol):
    """Somebody who sends requests."""

    @property
    def name(self) -> str:
        """What a test calls it."""

    async def headers(self) -> dict[str, str]:
        """The credentials as they must be sent now."""

    def may(self, permission: str) -> bool:
        """Whether the table of permissions allows it."""


@dataclass
class Person:
    """Somebody who signs in.

    Attributes:
        permissions: what the role gives, as tenants' table of roles says.
        named: the tenant named in `X-Tenant-ID`, where one is.
    """

    name: str
    origin: str
    email: str
    password: str
    tenant: str | None
    permissions: frozenset[str]
    operator: bool = False
    named: str | None = None
    http: httpx.AsyncClient = field(init=False, repr=False)
    _assertion: str = field(default="", repr=False)
    _made_at: float = -1e9

    def __post_init__(self) -> None:
        self.http = httpx.AsyncClient(
            base_url=self.origin, headers={"Origin": self.origin}, timeout=30
        )

    def may(self, permission: str) -> bool:
        if self.operator or permission == ANYONE_SIGNED_IN:
            return True
        if permission == OPERATOR:
            return False
        return bool(self.permissions & ({permission} | IMPLIED.get(permission, frozenset())))

    async def sign_in(self) -> httpx.Response:
        """Begin a session; the cookie stays in the client."""
        body = {"email": self.email, "password": self.password}
        answer = await self.http.post("/api/v1/session", json=body)
        assert answer.status_code == 201, answer.text
        return answer

    async def assertion(self) -> str:
        """A signed statement of who this is, fresh enough to be used."""
        if time.monotonic() - self._made_at > ASSERTION_FRESH_SECONDS:
            if not self.http.cookies:
                await self.sign_in()
            body = {} if self.tenant is None else {"tenant": self.tenant}
            answer = await self.http.post("/api/v1/session/assertion", json=body)
            assert answer.status_code == 200, answer.text
            self._assertion, self._made_at = answer.json()["assertion"], time.monotonic()
        return self._assertion

    async def headers(self) -> dict[str, str]:
        named = {} if self.named is None else {"X-Tenant-ID": self.named}
        return {"Authorization": f"Bearer {await self.assertion()}"} | named


@dataclass(frozen=True)
class Key:
    """An API key."""

    name: str
    key: str = field(repr=False)
    scopes: frozenset[str]

    def may(self, permission: str) -> bool:
        if permission == ANYONE_SIGNED_IN:
            return True
        if permission == OPERATOR:
            return False
        return bool(self.scopes & ({permission} | IMPLIED.get(permission, frozenset())))

    async def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True)
class Nobody:
    """Somebody without credentials."""

    name: str = "anonymous"

    def may(self, permission: str) -> bool:  # noqa: ARG002 - whatever it is
        return False

    async def headers(self) -> dict[str, str]:
        return {}


async def add_person(environment: Mapping[str, str], email: str, roles: Mapping[str, str]) -> UUID:
    """Enter somebody with a password, and its role in each tenant (ids), past the API."""
    user_id, now = new_id(), utc_now()
    hashed = PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
    admin = await proof.connect(environment)
    try:
        await admin.execute(
            "insert into tenants.user_account (user_id, email, password_hash, created_at) "
            "values ($1, $2, $3, $4)",
            *(user_id, email, hashed, now),
        )
        for tenant_id, role in roles.items():
            await admin.execute(
                "insert into tenants.member (tenant_id, user_id, role, created_at) "
                "values ($1, $2, $3, $4)",
                *(UUID(tenant_id), user_id, role, now),
            )
    finally:
        await admin.close()
    return user_id


def unique(word: str) -> str:
    """A name that no other test of this run and stack has."""
    return f"{word}-{os.getpid()}-{new_id().hex[-6:]}"


@dataclass(frozen=True)
class House:
    """A throw-away tenant with its operator, of which a test may break what it likes."""

    environment: Mapping[str, str]
    operator: Api
    tenant_id: str
    slug: str

    @property
    def origin(self) -> str:
        """Where everything is reached."""
        return self.environment["SLUICE_ORIGIN"]

    async def make_key(self, *scopes: str, mode: str = "test", **more: Any) -> dict[str, Any]:
        """A key of the tenant: the whole answer."""
        body = {"tenant": self.slug, "name": "test", "scopes": list(scopes), "mode": mode, **more}
        made: dict[str, Any] = await self.operator.post("/api/v1/api-keys", body)
        return made

    async def person(self, role: str, permissions: frozenset[str]) -> Person:
        """A new member with this role, not yet signed in."""
        email = f"{unique(role)}@{self.slug}.example"
        await add_person(self.environment, email, {self.tenant_id: role})
        return Person(role, self.origin, email, PASSWORD, self.tenant_id, permissions)


@asynccontextmanager
async def house(environment: Mapping[str, str], word: str) -> AsyncGenerator[House, None]:
    """A new tenant that every service knows by now."""
    operator = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    slug = unique(word)
    tenant = await operator.post("/api/v1/tenants", {"name": slug.title(), "slug": slug})
    yield House(environment, operator, tenant["id"], slug)
    await operator.close()
