"""Balance transactions as they are listed: long lists, odd ones, those that wait, and what is kept."""

import json
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from libs.clock import from_unix, utc_now
from libs.contracts.stripe_sync import BalanceTransactionRecorded
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.directory.local import Directory
from libs.ids import new_id
from services.stripe_sync import client, customers, payment_links, store_marks, transactions
from services.stripe_sync.client import Json, StripeApi
from services.stripe_sync.identities import Identity
from services.stripe_sync.marks import BALANCE
from services.stripe_sync.objects import UnreadableObjectError, mirrored
from services.stripe_sync.objects_payments import (
    failure_fact,
    payment_of_charge,
    payment_of_intent,
)
from services.stripe_sync.owners import UnknownOwnerError
from services.stripe_sync.transactions import list_transactions
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.desk import Desk, open_desk

MIGRATION = Path("services/stripe_sync/migrations/0022_list_in_stretches.sql").read_text()


@pytest.fixture
async def desk(world: World) -> Any:
    """A till on an account that a tenant has given its keys of."""
    async with AsyncExitStack() as stack:
        yield await open_desk(world, stack, "RAW_KEYS")


async def identity_of(desk: Desk) -> Identity:
    identity = await desk.world.identities.of(desk.account, "test")
    assert identity is not None
    return identity


async def listed(desk: Desk) -> int:
    """One run over the list; how many were recorded."""
    database = desk.world.database
    return await list_transactions(database, Directory(database), await identity_of(desk))


async def cursor(desk: Desk) -> datetime:
    (row,) = await desk.world.rows("transaction_cursor")
    listed_to: datetime = row["listed_to"]
    return listed_to


async def test_a_list_longer_than_one_run_is_read_on_where_the_last_one_stopped(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "PAGE_SIZE", 2)
    monkeypatch.setattr(transactions, "STRETCH_PAGES_MAX", 1)
    assert await listed(desk) == 0
    began = await cursor(desk)
    intents = [await desk.pay(amount=1000 + number) for number in range(5)]
    assert await listed(desk) == 2
    assert await cursor(desk) == began
    # The mark that the first run has left leads to the rest, the next one to what came meanwhile.
    intents.append(await desk.pay(amount=2000))
    await desk.world.settle()
    assert len(desk.told(BalanceTransactionRecorded)) == 5
    async with desk.world.database.tenant(desk.tenant.id, "test") as tx:
        await store_marks.mark(tx, desk.account, [BALANCE])
    await desk.world.settle()
    recorded = desk.told(BalanceTransactionRecorded)
    assert len({each.stripe_balance_transaction_id for each in recorded}) == len(intents)
    (row,) = await desk.world.rows("transaction_cursor")
    assert row["listed_to"] > began
    assert (row["pending_read_to"], row["pending_listed_to"]) == (None, None)
    assert await desk.booked() == await desk.balance()


async def test_what_a_movement_leads_to_is_marked_with_its_times(desk: Desk) -> None:
    """So that thousands are read in lists, and not each by itself as if it had changed just now."""
    intent = await desk.pay()
    await listed(desk)
    api = await desk.api()
    (movement,) = (await api.get("x", "/v1/balance_transactions", {"expand": ["data.source"]}))[
        "data"
    ]
    (mark,) = [
        row for row in await desk.world.rows("dirty_object") if row["object_id"] == intent["id"]
    ]
    assert mark["told_at"] == from_unix(movement["created"])
    assert mark["made_at"] == from_unix(movement["source"]["created"])


async def test_a_place_in_the_list_that_is_gone_is_forgotten(desk: Desk) -> None:
    await listed(desk)
    await desk.pay()
    async with desk.world.test_database.admin() as admin:
        await admin.execute(
            "update stripe_sync.transaction_cursor "
            "set pending_read_to = 'txn_gone', pending_listed_to = now()"
        )
    async with desk.world.database.tenant(desk.tenant.id, "test") as tx:
        await store_marks.mark(tx, desk.account, [BALANCE])
    await desk.world.settle()
    assert len(desk.told(BalanceTransactionRecorded)) == 1


async def test_the_cursor_moves_up_to_the_one_that_waits(world: World) -> None:
    async with AsyncExitStack() as stack:
        desk = await open_desk(world, stack, "PLATFORM")
        await desk.pay()
        stranger = (await desk.post("customers", name="Nobody"))["id"]
        waits = await desk.pay(customer=None, amount=700)
        assert waits["status"] == "succeeded"
        desk.customer = stranger
        intent = await desk.pay(amount=900)
        with pytest.raises(UnknownOwnerError):
            await listed(desk)
        api = await desk.api()
        (charge,) = (await api.get("x", "/v1/charges", {"payment_intent": intent["id"]}))["data"]
        found = await api.get("x", f"/v1/balance_transactions/{charge['balance_transaction']}")
        assert await cursor(desk) <= from_unix(found["created"])
        assert await cursor(desk) > utc_now() - timedelta(minutes=5)


async def test_the_share_of_a_payment_elsewhere_is_the_platforms_at_once(world: World) -> None:
    async with AsyncExitStack() as stack:
        desk = await open_desk(world, stack, "CONNECT_STANDARD")
        intent = await desk.pay(application_fee_amount=100)
        await desk.post(
            "refunds", payment_intent=intent["id"], amount=500, refund_application_fee=True
        )
        platform = Desk(world, world.tenants["platform"], None, "platform")
        assert await listed(platform) == 2
        told = platform.told(BalanceTransactionRecorded)
        await world.log.settle()
        told = platform.told(BalanceTransactionRecorded)
        assert [each.kind for each in told] == ["application_fee", "application_fee_refund"]
        assert platform.tenant.id == PLATFORM_TENANT_ID
        assert [row for row in await world.pending() if row["object_type"] == "charge"] == []


def unreadable() -> float:
    labels = {"object_type": "balance_transaction"}
    return REGISTRY.get_sample_value("sluice_stripe_objects_unreadable_total", labels) or 0.0


async def test_one_that_cannot_be_read_holds_up_no_other(desk: Desk) -> None:
    for amount in (1000, 1100, 1200):
        await desk.pay(amount=amount)
    api, database = await desk.api(), desk.world.database
    query = {"expand": ["data.source"]}
    page = (await api.get("x", "/v1/balance_transactions", query))["data"]
    odd = [page[0], page[1] | {"currency": "zzz"}, page[2]]
    before = unreadable()
    recorded, waiting = await transactions.record_listed(
        database, Directory(database), await identity_of(desk), odd
    )
    assert (recorded, waiting, unreadable()) == (2, [], before + 1)
    assert await listed(desk) == 1
    assert await listed(desk) == 0


async def test_an_amount_that_cannot_be_read_is_an_unreadable_object(desk: Desk) -> None:
    paid, declined = await desk.pay(), await desk.pay("chargeDeclined")
    api = await desk.api()
    intent = await api.get("x", f"/v1/payment_intents/{paid['id']}", {"expand": ["latest_charge"]})
    with pytest.raises(UnreadableObjectError):
        payment_of_intent(intent | {"currency": "zzz"})
    with pytest.raises(UnreadableObjectError):
        payment_of_charge(intent["latest_charge"] | {"currency": "isk", "amount_captured": 550})
    (charge,) = (await api.get("x", "/v1/charges", {"payment_intent": declined["id"]}))["data"]
    with pytest.raises(UnreadableObjectError):
        failure_fact(
            charge | {"currency": "zzz"},
            account=desk.account,
            customer_id=new_id(),
            invoice_id=None,
        )


async def test_what_is_kept_of_movements_and_charges_leads_to_nobody(desk: Desk) -> None:
    await desk.pay(description="For Ada Lovelace")
    await listed(desk)
    await desk.take()
    (kept,) = await desk.world.rows("balance_transaction")
    assert "Ada" not in kept["raw"]
    assert "description" not in json.loads(kept["raw"])
    (charge,) = [r for r in await desk.world.rows("stripe_object") if r["object_type"] == "charge"]
    assert '"receipt_url": null' in charge["raw"]
    assert (await desk.get("payments"))["items"][0]["receipt_url"]


def test_a_wallets_payer_is_left_out_of_the_mirror() -> None:
    names = {"payer_email": "a@b.example", "payer_name": "Ada", "verified_name": "Ada", "x": 1}
    charge = {"object": "charge", "payment_method_details": {"type": "paypal", "paypal": names}}
    kept = mirrored("charge", charge)["payment_method_details"]["paypal"]
    assert kept == {"payer_email": None, "payer_name": None, "verified_name": None, "x": 1}


async def test_the_migration_forgets_what_was_kept_before(desk: Desk) -> None:
    await desk.pay()
    await listed(desk)
    await desk.take()
    async with desk.world.test_database.admin() as admin:
        await admin.execute("set search_path to stripe_sync")
        await admin.execute(
            'update balance_transaction set raw = raw || \'{"description": "For Ada"}\''
        )
        await admin.execute(
            "update stripe_object set raw = raw || "
            '\'{"receipt_url": "https://ada", "payment_method_details": '
            '{"type": "ideal", "ideal": {"bank": "x", "verified_name": "Ada"}}}\' '
            "where object_type = 'charge'"
        )
        await admin.execute(
            MIGRATION[MIGRATION.index("alter table balance_transaction no force") :]
        )
    kept = str(await desk.world.rows("balance_transaction"))
    kept += str(await desk.world.rows("stripe_object"))
    assert "Ada" not in kept
    assert "https://ada" not in kept
    assert '"bank": "x"' in kept
    async with desk.world.test_database.admin() as admin:
        forced = await admin.fetch(
            "select relforcerowsecurity from pg_class where oid in "
            "('stripe_sync.balance_transaction'::regclass, 'stripe_sync.stripe_object'::regclass)"
        )
    assert [row[0] for row in forced] == [True, True]


async def looked(api: StripeApi, asked_at: datetime) -> Json | None:
    return await customers._look(api, {"metadata": {"customer_id": "lost"}}, asked_at)


async def test_a_lost_customer_is_looked_for_among_the_latest_only(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE_SIZE", 1)
    monkeypatch.setattr(customers, "LOOK_PAGES_MAX", 2)
    for number in range(3):
        await desk.post("customers", name=f"Old {number}")
    api = await desk.api()
    # As if all of them had been there for long.
    assert await looked(api, utc_now() + timedelta(hours=1)) is None
    lost = await desk.post("customers", metadata={"customer_id": "lost"})
    monkeypatch.setattr(customers, "LOOK_PAGES_MAX", 9)
    assert (await looked(api, utc_now()) or {})["id"] == lost["id"]


async def test_a_lost_link_is_looked_for_on_the_first_pages_only(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payment_links, "PAGE_SIZE", 1)
    monkeypatch.setattr(payment_links, "LOOK_PAGES_MAX", 2)
    price = {"currency": "eur", "unit_amount": 700, "product_data": {"name": "Pen"}}
    made = [
        await desk.post(
            "payment_links",
            line_items=[{"price_data": price, "quantity": 1}],
            metadata={"payment_link_id": str(number)},
        )
        for number in range(3)
    ]
    api = await desk.api()
    assert (await payment_links._look(api, "1") or {})["id"] == made[1]["id"]
    assert await payment_links._look(api, "0") is None
