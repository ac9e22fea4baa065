"""What becomes of an invoice at Stripe reaches the books: through stripe_sync, billing and the ledger."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.tenants import TenantCreated
from services.billing.handlers import HANDLERS as BILLING_HANDLERS
from services.stripe_sync.client import Json
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.desk import Desk, open_desk

DAY = 86_400


@pytest.fixture
async def desk(world: World) -> AsyncGenerator[Desk, None]:
    """The platform's account, with billing and the ledger listening."""
    async with AsyncExitStack() as stack:
        opened = await open_desk(world, stack, "PLATFORM")
        billing = await stack.enter_async_context(world.test_database.open("billing"))
        world.log.add(billing, BILLING_HANDLERS)
        created = TenantCreated(
            name="Acme",
            slug="acme",
            tenant_type="organization",
            currency="EUR",
            locale="en",
            self_customer_id=opened.tenant.customer_id,
        )
        world.log.publish(
            wrap(
                created,
                tenant_id=opened.tenant.id,
                mode="test",
                source="tenants",
                effective_at=utc_now(),
            )
        )
        await world.settle()
        yield opened


async def invoice(desk: Desk) -> Json:
    """An invoice over two months in advance and something at once, which nobody pays by itself."""
    now = int(utc_now().timestamp())
    ahead = {"start": now, "end": now + 60 * DAY}
    for amount, more in ((6000, {"period": ahead}), (400, {})):
        params: dict[str, Any] = {"customer": desk.customer, "amount": amount, "currency": "eur"}
        await desk.post("invoiceitems", **params, **more)
    made = await desk.post(
        "invoices",
        customer=desk.customer,
        collection_method="send_invoice",
        days_until_due=30,
        pending_invoice_items_behavior="include",
    )
    final = await desk.post(f"invoices/{made['id']}/finalize", auto_advance=False)
    await desk.take()
    return final


async def standing(desk: Desk) -> dict[str, int]:
    """Debits less credits by account, without zeros."""
    async with desk.world.test_database.admin() as admin:
        rows = await admin.fetch(
            "select account, sum(debit_minor - credit_minor)::bigint as net "
            "from ledger.account_balance group by 1 order by 1"
        )
    return {row["account"]: row["net"] for row in rows if row["net"]}


async def test_an_invoice_is_credited_given_up_and_voided(desk: Desk) -> None:
    made = await invoice(desk)
    assert await standing(desk) == {
        "asset:receivable": 6400,
        "liability:deferred_revenue": -6000,
        "revenue:flat": -400,
    }
    await desk.post("credit_notes", invoice=made["id"], amount=640)
    await desk.take()
    credited = {
        "asset:receivable": 5760,
        "liability:deferred_revenue": -5400,
        "revenue:flat": -360,
    }
    assert await standing(desk) == credited
    await desk.post(f"invoices/{made['id']}/mark_uncollectible")
    await desk.take()
    assert await standing(desk) == {
        "expense:bad_debts": 5760,
        "liability:deferred_revenue": -5400,
        "revenue:flat": -360,
    }
    await desk.post(f"invoices/{made['id']}/void")
    await desk.take()
    voided = {"expense:bad_debts": 5760, "expense:bad_debts_recovered": -5760}
    assert await standing(desk) == voided
    await desk.world.log.replay(clear_inboxes=True)
    assert await standing(desk) == voided


async def test_what_was_given_up_is_paid_after_all(desk: Desk) -> None:
    """By bank transfer, of which somebody else tells: what is open then is a receivable again."""
    made = await invoice(desk)
    await desk.post(f"invoices/{made['id']}/mark_uncollectible")
    await desk.take()
    await desk.post(f"invoices/{made['id']}/pay", paid_out_of_band=True)
    await desk.take()
    assert await standing(desk) == {
        "asset:receivable": 6400,
        "expense:bad_debts": 6400,
        "expense:bad_debts_recovered": -6400,
        "liability:deferred_revenue": -6000,
        "revenue:flat": -400,
    }
