"""Waiting for what is on its way: nobody without a key does, and of others only so many at a time."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

import pytest

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.crypto import apikeys
from libs.directory import local
from libs.directory.arrivals import Arrivals
from libs.directory.local import Directory, LookupKind, Tenant
from libs.ids import new_id
from libs.web import key_waits
from libs.web.auth import WRITE_WAITS_PER_CALLER
from libs.web.key_waits import PLACES_PER_ADDRESS, KeyWaits
from tests.libs.web.test_auth import ACME, GLOBEX, World, world  # noqa: F401

AHEAD = {"Sluice-Version": f"{ACME}:999"}


async def sign_up(world: World, tenant_id: UUID | None = None) -> UUID:  # noqa: F811
    """A tenant that no other test has told of."""
    young = tenant_id or new_id()
    world.snapshots[young] = world.snapshots[ACME].model_copy(
        update={"version": 0, "slug": "young"}
    )
    await world.publish(young)
    return young


async def test_nobody_without_a_key_waits_for_a_write(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Other tests of this process have told of later versions of the platform's record.
    monkeypatch.setattr(local, "RECORDS", Arrivals())
    monkeypatch.setattr(local, "CACHE_SECONDS", 60)
    begun = 0
    transaction = world.database.transaction

    @asynccontextmanager
    async def counted(*parts: Any, **named: Any) -> AsyncGenerator[Any, None]:
        nonlocal begun
        begun += 1
        async with transaction(*parts, **named) as tx:
            yield tx

    await world.gate.directory.platform()
    monkeypatch.setattr(world.database, "transaction", counted)
    for headers in ({}, {"Authorization": "Bearer of nothing"}):
        answers = await asyncio.gather(
            *[world.http.get("/read", headers=AHEAD | headers) for _ in range(200)]
        )
        assert {answer.status_code for answer in answers} == {401}
    assert begun <= 2


class Watched(KeyWaits):
    """Places that know how many of them were taken at once."""

    most = 0

    @contextmanager
    def place(self, address: str) -> Generator[bool, None, None]:
        with super().place(address) as waits:
            self.most = max(self.most, self._taken.total())
            yield waits


async def test_few_invented_keys_wait(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(key_waits, "WAIT_SECONDS", 0.5)
    places = world.gate._key_waits = Watched()
    looks: Counter[str] = Counter()
    find = world.gate.directory.find

    async def counted(kind: LookupKind, value: str) -> Tenant | None:
        looks[kind] += 1
        return await find(kind, value)

    monkeypatch.setattr(world.gate.directory, "find", counted)
    keys = [apikeys.generate("test").key for _ in range(3 * PLACES_PER_ADDRESS)]
    answers = await asyncio.gather(*[world.get("/read", key, **AHEAD) for key in keys])
    assert {answer.status_code for answer in answers} == {401}
    assert 0 < places.most <= PLACES_PER_ADDRESS
    # Only the keys were looked for: nobody of them waited for the write.
    assert looks.keys() == {"key"}


async def test_of_one_caller_only_so_many_wait_for_a_write(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = await world.add_key(ACME, "billing:read")
    many = 3 * WRITE_WAITS_PER_CALLER
    waits: list[float] = []
    all_came = asyncio.Event()

    async def come(_tenant_id: UUID, _version: int, *, wait_seconds: float) -> bool:
        waits.append(wait_seconds)
        if len(waits) == many:
            all_came.set()
        if wait_seconds:
            await all_came.wait()
        return False

    with monkeypatch.context() as patch:
        patch.setattr(world.gate.directory, "wait_for_version", come)
        answers = await asyncio.gather(*[world.get("/read", key, **AHEAD) for _ in range(many)])
    assert {answer.status_code for answer in answers} == {503}
    assert all("retry-after" in answer.headers for answer in answers)
    assert sum(seconds > 0 for seconds in waits) == WRITE_WAITS_PER_CALLER
    # What is known already is waited for by nobody.
    known = {"Sluice-Version": f"{ACME}:{world.snapshots[ACME].version}"}
    answers = await asyncio.gather(*[world.get("/read", key, **known) for _ in range(many)])
    assert {answer.status_code for answer in answers} == {200}


async def test_who_waits_takes_nothing_from_what_others_remember(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "CACHE_SECONDS", 60)
    directory, young = world.gate.directory, await sign_up(world)
    assert await directory.by_id(young) is not None
    waiting = asyncio.create_task(directory.wait_for_version(young, 999, wait_seconds=0.2))
    while not waiting.done():
        assert directory._remembered("id", str(young)) is not None
        await asyncio.sleep(0)
    assert await waiting is False


async def test_an_assertion_is_waited_for_where_its_tenant_is_on_its_way(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(key_waits, "WAIT_SECONDS", 20)
    young = new_id()
    waiting = asyncio.create_task(world.get("/read", world.assertion(tenant_id=young)))
    await asyncio.sleep(0.1)
    world.snapshots[young] = world.snapshots[ACME].model_copy(
        update={"version": 0, "slug": "young"}
    )
    await world.publish(young)
    assert (await waiting).status_code == 200


async def test_no_tenant_is_lost_where_little_is_remembered(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "CACHE_ENTRIES", 1)
    wanted = {ACME, GLOBEX, PLATFORM_TENANT_ID}
    directory = Directory(world.database)
    for _ in range(2):
        assert (await directory.by_ids(wanted | {new_id()})).keys() == wanted
