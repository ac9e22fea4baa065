"""Persons with browsers of their own, at a tenants service."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx

from libs.clock import utc_now
from libs.db.tenant import Scope
from libs.ids import parse_public_id
from services.tenants import passwords, people, store_people
from services.tenants.roles import Role
from tenants.conftest import ORIGIN, World

PASSWORD = "a quiet morning in May"
FROM_HERE = {"Origin": ORIGIN}


async def add_person(world: World, email: str, **roles: Role) -> UUID:
    """A person with a password and these roles by slug."""
    hashed = await passwords.hash_password(PASSWORD)
    async with world.database.transaction() as tx:
        user_id = await people.ensure_user(tx, email, utc_now(), password_hash=hashed)
    for slug, role in roles.items():
        tenant = await world.app.state.directory.by_reference(slug)
        async with world.database.transaction(Scope((tenant.id,), None)) as tx:
            await store_people.insert_member(tx, user_id, role, utc_now())
    return user_id


def token_of(url: str) -> str:
    """The token in the address of an invitation."""
    assert url.startswith(f"{ORIGIN}/invitation?")
    (token,) = parse_qs(urlsplit(url).query)["token"]
    return token


@dataclass
class Person:
    """Somebody with a browser; signed in once they have a session."""

    world: World
    client: httpx.AsyncClient
    email: str

    async def sign_in(self, password: str = PASSWORD) -> httpx.Response:
        """Sign in with the password."""
        body = {"email": self.email, "password": password}
        answer = await self.client.post("/api/v1/session", json=body, headers=FROM_HERE)
        await self.world.settle()
        return answer

    async def assertion(self, tenant: str | None = None) -> str:
        """An assertion for the tenant, or the primary one."""
        answer = await self.assert_for(tenant)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["assertion"]
        return text

    async def assert_for(self, tenant: str | None = None) -> httpx.Response:
        """The answer to asking for an assertion."""
        body = {} if tenant is None else {"tenant": tenant}
        return await self.client.post("/api/v1/session/assertion", json=body, headers=FROM_HERE)

    async def call(
        self, method: str, path: str, tenant: str | None = None, **parts: Any
    ) -> httpx.Response:
        """A request with a fresh assertion; settled afterwards."""
        key = await self.assertion(tenant)
        return await self.world.call(method, path, key=key, **parts)

    async def accept(self, url: str, **body: Any) -> httpx.Response:
        """Open the link of an invitation and accept it."""
        answer = await self.client.post(
            "/api/v1/invitations/accept",
            json={"token": token_of(url), **body},
            headers=FROM_HERE,
        )
        await self.world.settle()
        return answer

    async def user_id(self) -> UUID:
        """The user's id."""
        answer = await self.assert_for()
        return parse_public_id("user", answer.json()["user"]["id"])


@asynccontextmanager
async def browser(world: World, email: str) -> AsyncGenerator[Person, None]:
    """Somebody at a browser of their own, not signed in."""
    transport = httpx.ASGITransport(world.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield Person(world, client, email)


@asynccontextmanager
async def signed_in(world: World, email: str, **roles: Role) -> AsyncGenerator[Person, None]:
    """A person with these roles by slug, signed in."""
    await add_person(world, email, **roles)
    async with browser(world, email) as person:
        assert (await person.sign_in()).status_code == 201
        yield person


async def invite(world: World, tenant: str, email: str, **body: Any) -> str:
    """The address of an invitation that the operator made."""
    answer = await world.call(
        "POST",
        "/api/v1/invitations",
        json={"email": email, **body},
        headers={"X-Tenant-ID": tenant},
    )
    assert answer.status_code == 201, answer.text
    url: str = answer.json()["url"]
    return url
