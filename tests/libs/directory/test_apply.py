"""Records of tenants arrive in any order; who has a Stripe account follows the last one that named it."""

import asyncio
from datetime import timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.envelope import Envelope, wrap
from libs.contracts.tenants import ConnectionRecord, ConnectionStatus, TenantSnapshot
from libs.db.pool import Database
from libs.db.tenant import Scope
from libs.directory import apply as applying
from libs.directory import local
from libs.directory.apply import apply_snapshot
from libs.directory.arrivals import RECORDS, Arrivals
from libs.directory.local import Directory
from libs.ids import new_id
from libs.testing.databases import TestDatabase

ACCOUNT = "acct_moved"
BEGAN = utc_now()
FIRST, SECOND = new_id(), new_id()


def record(
    tenant_id: UUID, version: int, seconds: int, status: ConnectionStatus | None
) -> Envelope[TenantSnapshot]:
    """A version of a tenant's record, told so many seconds after the beginning."""
    connections: tuple[ConnectionRecord, ...] = ()
    if status is not None:
        connections = (
            ConnectionRecord(
                connection_id=new_id(),
                mode="test",
                kind="CONNECT_STANDARD",
                status=status,
                account_id=ACCOUNT,
            ),
        )
    snapshot = TenantSnapshot(
        version=version,
        slug=f"t-{tenant_id.hex[:20]}{tenant_id.hex[-6:]}",
        name="A tenant",
        tenant_type="organization",
        status="active",
        currency="EUR",
        locale="en",
        self_customer_id=new_id(),
        connections=connections,
    )
    told = wrap(snapshot, tenant_id=tenant_id, mode=None, source="tenants", effective_at=BEGAN)
    return told.model_copy(update={"occurred_at": BEGAN + timedelta(seconds=seconds)})


async def apply(database: Database, event: Envelope[TenantSnapshot]) -> None:
    async with database.transaction(Scope((event.tenant_id,), None)) as tx:
        await apply_snapshot(event, tx)


MOVE = (
    record(FIRST, 5, 10, "CONNECTED"),
    record(FIRST, 6, 20, None),
    record(SECOND, 9, 30, "CONNECTED"),
)


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_an_account_follows_the_record_that_named_it_last(
    database: TestDatabase, order: tuple[int, ...]
) -> None:
    async with database.open("gateway") as opened:
        for place in order:
            await apply(opened, MOVE[place])
        found = await Directory(opened).find("account", f"test:{ACCOUNT}")
    assert found is not None
    assert found.id == SECOND


async def test_an_account_that_was_given_up_is_nobodys(database: TestDatabase) -> None:
    async with database.open("gateway") as opened:
        await apply(opened, record(FIRST, 1, 1, "CONNECTED"))
        await apply(opened, record(FIRST, 2, 2, "REVOKED"))
        assert await Directory(opened).find("account", f"test:{ACCOUNT}") is None


async def test_what_is_remembered_ends_with_the_record_that_this_process_takes_in(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seen(directory: Directory) -> list[int]:
        by_id = await directory.by_id(FIRST)
        together = (await directory.by_ids([FIRST]))[FIRST]
        assert by_id is not None
        return [by_id.snapshot.version, together.snapshot.version]

    monkeypatch.setattr(local, "CACHE_SECONDS", 3600.0)
    async with database.open("gateway") as opened:
        directory = Directory(opened)
        for version in (11, 12):
            await apply(opened, record(FIRST, version, version, "CONNECTED"))
            assert await seen(directory) == [version, version]
        # Nothing of a commit that fails is believed; what another process takes in is seen later.
        with pytest.raises(RuntimeError):
            await _apply_and_fail(opened, record(FIRST, 13, 13, "CONNECTED"))
        assert RECORDS.is_newest("gateway", FIRST, 12)
        monkeypatch.setattr(applying, "RECORDS", Arrivals(tenants_max=0))
        await apply(opened, record(FIRST, 14, 14, "CONNECTED"))
        assert await seen(directory) == [12, 12]
        monkeypatch.setattr(local, "CACHE_SECONDS", 0.0)
        assert await seen(directory) == [14, 14]


async def _apply_and_fail(database: Database, event: Envelope[TenantSnapshot]) -> None:
    async with database.transaction(Scope((event.tenant_id,), None)) as tx:
        await apply_snapshot(event, tx)
        raise RuntimeError


def test_only_so_many_arrivals_are_kept_in_mind() -> None:
    arrivals = Arrivals(tenants_max=2)
    for tenant, version in ((FIRST, 5), (SECOND, 1), (FIRST, 4), (new_id(), 9)):
        arrivals.note("gateway", tenant, version)
    assert [arrivals.is_newest("gateway", FIRST, version) for version in (4, 5)] == [False, True]
    assert arrivals.is_newest("billing", FIRST, 1)
    assert arrivals.is_newest("gateway", SECOND, 0)


async def test_what_stood_there_before_is_still_found(database: TestDatabase) -> None:
    """Rows of a service that was not restarted since accounts could move."""
    async with database.open("gateway") as opened:
        await apply(opened, record(FIRST, 1, 1, "CONNECTED"))
        async with database.admin() as admin:
            await admin.execute("delete from gateway.directory_account")
        found = await Directory(opened).find("account", f"test:{ACCOUNT}")
    assert found is not None
    assert found.id == FIRST


async def test_all_who_ask_for_a_tenant_at_once_share_two_looks(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the second that a tenant is remembered for, all requests under way ask."""
    looks = 0
    straight = Database.fetchrow

    async def counted(each: Database, sql: str, *args: Any) -> Any:
        nonlocal looks
        looks += 1
        return await straight(each, sql, *args)

    async with database.open("metering") as opened:
        await apply(opened, record(FIRST, 5, 10, None))
        monkeypatch.setattr(Database, "fetchrow", counted)
        directory = Directory(opened)
        found = await asyncio.gather(*(directory.by_id(FIRST) for _ in range(50)))
        assert {tenant.id for tenant in found if tenant} == {FIRST}
        assert looks <= 2, "one that was under way, and one for whoever asked meanwhile"
        nobody = await asyncio.gather(*(directory.by_id(SECOND) for _ in range(50)))
        assert set(nobody) == {None}
        assert looks <= 4
