"""Whose turn it is: no account waits for marks that others have, or that nobody can fetch."""

import asyncio
import time
from datetime import timedelta

import pytest

from libs.clock import utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.directory.local import Directory
from libs.ids import new_id
from services.stripe_sync import jobs, lease, store_leases, store_marks
from services.stripe_sync.jobs import Refreshing
from services.stripe_sync.lease import LeaseLostError, leased
from services.stripe_sync.refresh import AccountWorker
from services.stripe_sync.store_marks import Mark
from tests.services.stripe_sync.accounts import own_account
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.test_backlog import pay_at_stripe

STRANGERS = 2_000
GONE = [("customer", "cus_gone")]
PATIENCE_SECONDS = 60


async def mark(world: World, accounts: list[str]) -> None:
    """Something of each account is to be fetched."""
    acme = world.tenants["acme"].id
    async with world.database.tenant(acme, "test") as tx:
        for account in accounts:
            await store_marks.mark(tx, account, GONE)


async def test_marks_of_accounts_that_nobody_has_hold_up_nobody(world: World) -> None:
    async with world.database.tenant(PLATFORM_TENANT_ID, "test") as tx:
        strange = [f"acct_{number}" for number in range(STRANGERS)]
        await store_marks.mark_each(
            tx, [Mark(PLATFORM_TENANT_ID, each, "account", each) for each in strange]
        )
        await store_marks.mark(tx, "platform", GONE)
    refreshing = Refreshing(world.database, Directory(world.database), world.identities)
    async with refreshing.running():
        for _ in range(2):
            await refreshing.run_once()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "platform" in {row["account"] for row in await world.rows("dirty_object")}:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    assert len(await world.rows("dirty_object")) == STRANGERS


async def test_the_account_served_longest_ago_is_next(world: World) -> None:
    """Also before one whose marks are older, and which is never done."""
    first, second = await own_account(world, "acme"), await own_account(world, "globex")
    await world.settle()
    now = utc_now()
    await mark(world, [first.account, second.account])
    async with world.database.maintenance() as tx:
        mine, theirs = (first.account, "test"), (second.account, "test")
        assert await store_marks.due_accounts(tx, now, [], 1) == [mine]
        await store_marks.note_served(tx, [mine], now)
        assert await store_marks.due_accounts(tx, now, [], 1) == [theirs]
        await store_marks.note_served(tx, [theirs], now + timedelta(seconds=1))
        assert await store_marks.due_accounts(tx, now, [], 1) == [mine]


async def test_marks_of_an_account_that_nobody_has_for_days_are_dropped(world: World) -> None:
    own = await own_account(world, "acme")
    await world.settle()
    await mark(world, [own.account, "acct_nobody"])
    await jobs.leave_unclaimed(world.database)
    since = {row["account"]: row["unclaimed_since"] for row in await world.rows("dirty_object")}
    assert since[own.account] is None
    assert since["acct_nobody"] is not None
    async with world.test_database.admin() as admin:
        await admin.execute(
            "update stripe_sync.dirty_object set unclaimed_since = now() - $1::interval",
            jobs.UNCLAIMED_FOR + timedelta(minutes=1),
        )
    await jobs.leave_unclaimed(world.database)
    (row,) = await world.rows("dirty_object")
    assert (row["account"], row["unclaimed_since"]) == (own.account, None)


async def test_a_lease_holds_for_as_long_as_its_work_takes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, an account with a backlog, and answers that take longer than a lease."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(lease, "RENEWED_AFTER_SECONDS", 0.1)
    pay_at_stripe(world, 8)
    world.deliver(world.sandbox.events(world.key))
    await world.log.settle()
    for path in ("/v1/checkout/sessions", "/v1/invoice_payments"):
        world.sandbox.fault(kind="delay", method="GET", path=path, seconds=1.0)
    identity = await world.identities.of("platform", "test")
    assert identity is not None
    workers = [AccountWorker(world.database, Directory(world.database), identity) for _ in range(2)]
    deadline = time.monotonic() + PATIENCE_SECONDS

    async def work(worker: AccountWorker) -> None:
        while await world.pending():
            assert time.monotonic() < deadline
            await worker.run_once()
            await asyncio.sleep(0.01)

    await asyncio.gather(*(work(worker) for worker in workers))
    assert await world.rows("lease") == []


async def test_a_lease_that_was_lost_is_not_taken_back(world: World) -> None:
    """Not even when the other has given it back: it has written what is newer."""
    async with leased(world.database, "account:x:test") as slow:
        assert slow is not None
        later = utc_now() + timedelta(seconds=lease.LEASE_SECONDS + 1)
        async with world.database.transaction() as tx:
            assert await store_leases.take(tx, slow.name, new_id(), later, later)
        async with world.database.transaction() as tx:
            assert not await store_leases.prolong(tx, slow.name, slow.token, later)
            await tx.execute("delete from lease")
            assert not await store_leases.prolong(tx, slow.name, slow.token, later)
            with pytest.raises(LeaseLostError):
                await lease.hold(tx, slow)
