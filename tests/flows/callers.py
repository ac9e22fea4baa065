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
from urllib.parse import parse_qs, urlsplit

import httpx

from cli.api import Api
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.ids import new_id
from libs.web.auth import ANYONE_SIGNED_IN, IMPLIED, OPERATOR, OWNER
from services.tenants.roles import PERMISSIONS, Role
from tests.known_everywhere import known_everywhere

PASSWORD = "correct horse battery staple"
ASSERTION_FRESH_SECONDS = 40


def includes(has: frozenset[str], permission: str) -> bool:
    """Whether a permission is among these, itself or in a larger one."""
    return bool(has & ({permission} | IMPLIED.get(permission, frozenset())))


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
        role: in the tenant, with what tenants' table of roles gives it; None for the staff.
        named: the tenant named in `X-Tenant-ID`, where one is.
    """

    name: str
    origin: str
    email: str
    password: str
    tenant: str | None
    role: Role | None
    named: str | None = None
    user_id: str = ""
    http: httpx.AsyncClient = field(init=False, repr=False)
    _assertion: str = field(default="", repr=False)
    _made_at: float = -1e9

    def __post_init__(self) -> None:
        self.http = httpx.AsyncClient(
            base_url=self.origin, headers={"Origin": self.origin}, timeout=30
        )

    def may(self, permission: str) -> bool:
        if self.role is None or permission == ANYONE_SIGNED_IN:
            return True
        if permission in (OPERATOR, OWNER):
            return permission == self.role
        return includes(PERMISSIONS[self.role], permission)

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
        if permission in (OPERATOR, OWNER):
            return False
        return permission == ANYONE_SIGNED_IN or includes(self.scopes, permission)

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
        """A key of the tenant that every service knows by now: the whole answer."""
        body = {"tenant": self.slug, "name": "test", "scopes": list(scopes), "mode": mode, **more}
        made: dict[str, Any] = await self.operator.post("/api/v1/api-keys", body)
        await known_everywhere(self.environment, self.operator)
        return made

    async def person(self, role: Role) -> Person:
        """Somebody who was invited with this role and has accepted; not signed in by now."""
        email = f"{unique(role)}@{self.slug}.example"
        person = Person(role, self.origin, email, PASSWORD, self.tenant_id, role)
        return await self._invite(person, self.tenant_id, role)

    async def staff(self) -> Person:
        """One more of the platform's staff, who names this tenant in every request."""
        email = f"{unique('staff')}@platform.example"
        person = Person(
            "operator", self.origin, email, PASSWORD, tenant=None, role=None, named=self.tenant_id
        )
        return await self._invite(person, str(PLATFORM_TENANT_ID), "member")

    async def _invite(self, person: Person, tenant: str, role: Role) -> Person:
        headers = {"X-API-Key": self.environment["SLUICE_OPERATOR_KEY"], "X-Tenant-ID": tenant}
        body = {"email": person.email, "role": role}
        invited = await person.http.post("/api/v1/invitations", json=body, headers=headers)
        assert invited.status_code == 201, invited.text
        token = parse_qs(urlsplit(invited.json()["url"]).query)["token"][0]
        answer = await person.http.post(
            "/api/v1/invitations/accept", json={"token": token, "password": PASSWORD}
        )
        assert answer.status_code == 201, answer.text
        person.user_id = answer.json()["user"]["id"]
        await person.http.delete("/api/v1/session")
        person.http.cookies.clear()
        return person


@asynccontextmanager
async def house(environment: Mapping[str, str], word: str) -> AsyncGenerator[House, None]:
    """A new tenant that every service knows by now."""
    operator = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    slug = unique(word)
    tenant = await operator.post("/api/v1/tenants", {"name": slug.title(), "slug": slug})
    await known_everywhere(environment, operator)
    yield House(environment, operator, tenant["id"], slug)
    await operator.close()
