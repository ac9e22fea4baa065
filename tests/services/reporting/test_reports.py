"""What reports say: the ledger's revenue, once, for whoever may see it."""

from typing import Any

import pytest

from libs.contracts.billing import InvoicePaid, SubscriptionChanged
from libs.contracts.envelope import Envelope
from libs.contracts.stripe_sync import PaymentFailed
from libs.db.pool import Database
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.services.ledger.facts import START, Tenant
from tests.services.reporting.conftest import Api


def paid(invoice: Envelope[Any], tenant: Tenant) -> Envelope[Any]:
    fact = invoice.data
    return tenant.event(
        InvoicePaid(
            invoice_id=fact.invoice_id,
            number=fact.number,
            customer_id=fact.customer_id,
            currency=fact.currency,
            paid_minor=fact.total_minor,
        )
    )


def failed(tenant: Tenant, amount_minor: int) -> Envelope[Any]:
    return tenant.event(
        PaymentFailed(
            account="platform",
            customer_id=tenant.customer_id,
            stripe_payment_intent_id=None,
            stripe_invoice_id="in_1",
            attempt_key=f"ch_{new_id().hex}",
            amount_minor=amount_minor,
            currency="EUR",
            failure_code="card_declined",
            failed_at=START,
        )
    )


def subscribed(tenant: Tenant, version: int, plan: str, status: Any) -> Envelope[Any]:
    return tenant.event(
        SubscriptionChanged(
            subscription_id=tenant.customer_id,
            version=version,
            customer_id=tenant.customer_id,
            billed_by="platform",
            plan_key=plan,
            plan_version_id=tenant.customer_id,
            status=status,
            collection="stripe",
            currency="EUR",
            period_from=None,
            period_to=None,
        )
    )


async def tell_the_story(log: MemoryLog, acme: Tenant, globex: Tenant) -> None:
    """Acme pays in January and February, globex owes; acme bills a customer of its own."""
    first = acme.invoice({"flat": 4900})
    acme.days = 31
    second = acme.invoice({"flat": 4900, "usage": 1350}, credits_minor=1000)
    for event in (
        subscribed(acme, 2, "pro", "active"),
        subscribed(acme, 1, "free", "active"),
        paid(second, acme),
        first,
        second,
        paid(first, acme),
        acme.payment(4900),
        acme.payment(5250),
        failed(acme, 5250),
        acme.transaction("refund", -250),
        acme.invoice({"flat": 777}, billed_by="tenant"),
        globex.invoice({"flat": 100}, currency="USD"),
        subscribed(globex, 1, "free", "trialing"),
    ):
        log.publish(event)
    await log.settle()


async def test_revenue_of_the_platform_and_of_a_tenant(api: Api, log: MemoryLog) -> None:
    await tell_the_story(log, api.acme, api.globex)
    months = {"from": "2026-01", "to": "2026-12"}
    platform = (await api.get("reports/revenue", api.operator, None, **months)).json()
    january = {
        "month": "2026-01",
        "currency": "EUR",
        "revenue_minor": 4900,
        "by_kind": {"flat": 4900},
    }
    february = {
        "month": "2026-02",
        "currency": "EUR",
        "revenue_minor": 6000,
        "by_kind": {"flat": 4900, "refunds": -250, "usage": 1350},
    }
    dollars = january | {"currency": "USD", "revenue_minor": 100, "by_kind": {"flat": 100}}
    assert platform["book"] == "platform"
    assert platform["items"] == [january, dollars, february]

    one = await api.get("reports/revenue", api.operator, {"X-Tenant-ID": "globex"}, **months)
    assert one.json()["items"] == [dollars]
    two = await api.get("reports/revenue", api.operator, None, currency="USD", **months)
    assert two.json()["items"] == [dollars]
    none = await api.get("reports/revenue", api.operator, None, **{"from": "2026-03"})
    assert none.json()["items"] == []

    own = (await api.get("reports/revenue", api.acme_key, None, **months)).json()
    assert (own["book"], [each["revenue_minor"] for each in own["items"]]) == ("tenant", [777])
    assert (await api.get("reports/revenue", api.globex_key, None, **months)).json()["items"] == []


async def test_the_summary(api: Api, log: MemoryLog) -> None:
    await tell_the_story(log, api.acme, api.globex)
    whole = (await api.get("reports/summary", api.operator)).json()
    assert whole["invoices"] == [
        {"status": "open", "currency": "USD", "invoices": 1, "amount_minor": 100},
        {"status": "paid", "currency": "EUR", "invoices": 2, "amount_minor": 10150},
    ]
    assert whole["payments"] == [
        {"outcome": "failed", "currency": "EUR", "attempts": 1, "amount_minor": 5250},
        {"outcome": "succeeded", "currency": "EUR", "attempts": 2, "amount_minor": 10150},
    ]
    assert whole["subscriptions"] == [
        {"plan": "free", "status": "trialing", "subscriptions": 1},
        {"plan": "pro", "status": "active", "subscriptions": 1},
    ]
    assert whole["tenants"] == [
        {"plan": "pro", "status": "active", "tenants": 1},
        {"plan": None, "status": "trialing", "tenants": 1},
    ]
    own = (await api.get("reports/summary", api.acme_key)).json()
    assert own["tenants"] is None
    assert own["invoices"] == [
        {"status": "open", "currency": "EUR", "invoices": 1, "amount_minor": 777}
    ]
    assert own["payments"] == own["subscriptions"] == []


async def read_models(database: TestDatabase) -> dict[str, list[str]]:
    tables = ("revenue_line", "revenue_month", "invoice", "payment_attempt", "subscription")
    async with database.admin() as admin:
        return {
            table: [
                row["text"]
                for row in await admin.fetch(
                    f"select t::text as text from reporting.{table} t order by 1"
                )
            ]
            for table in tables
        }


@pytest.mark.usefixtures("reporting")
@pytest.mark.parametrize("clear_inboxes", [False, True])
async def test_replay_changes_nothing(
    log: MemoryLog, database: TestDatabase, clear_inboxes: bool
) -> None:
    await tell_the_story(log, Tenant(), Tenant())
    before = await read_models(database)
    assert {table: len(rows) for table, rows in before.items()} == {
        "revenue_line": 6,
        "revenue_month": 6,
        "invoice": 4,
        "payment_attempt": 3,
        "subscription": 2,
    }
    await log.replay(clear_inboxes=clear_inboxes)
    assert await read_models(database) == before


async def test_the_read_models_are_built_anew_from_the_topics(
    log: MemoryLog, database: TestDatabase, reporting: Database
) -> None:
    await tell_the_story(log, Tenant(), Tenant())
    before = await read_models(database)
    async with database.admin() as admin:
        for table in before:
            await admin.execute(f"truncate reporting.{table}")
    assert not any((await read_models(database)).values())
    await log.replay(clear_inboxes=True)
    assert await read_models(database) == before
    async with reporting.tenant(new_id(), "test", books=("platform", "tenant")) as tx:
        for table in before:
            assert await tx.fetchval(f"select count(*) from {table}") == 0


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"from": "2026-13"}, 422),
        ({"from": "2026-1"}, 422),
        ({"from": "0001-01", "to": "2026-01"}, 422),
        ({"from": "2026-02", "to": "2026-01"}, 422),
        ({"from": "2010-01", "to": "2026-01"}, 422),
        ({"from": "2016-02", "to": "2026-01"}, 200),
        ({"currency": "eur"}, 422),
        ({"book": "both"}, 422),
        ({}, 200),
    ],
)
async def test_bad_questions(api: Api, params: dict[str, str], status: int) -> None:
    answer = await api.get("reports/revenue", api.operator, None, **params)
    assert answer.status_code == status, answer.text


async def test_who_may_not(api: Api) -> None:
    for path in ("reports/revenue", "reports/summary"):
        refused = await api.get(path, api.acme_key, None, book="platform")
        assert (refused.status_code, refused.json()["permission"]) == (403, "operator")
        assert (await api.get(path, "nonsense")).status_code == 401
        assert (await api.get(path, api.globex_key, {"X-Tenant-ID": "acme"})).status_code == 403
    assert (await api.get("ops/topics", api.acme_key)).status_code == 403
