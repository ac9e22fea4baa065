"""The story: a plan is bought, paid, renewed under a clock with usage on it; all facts leave once."""

import json
from datetime import timedelta

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from libs.clock import utc_now
from libs.contracts.billing import CommandLine, CompleteInvoice
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    PaymentSucceeded,
    StripeClockAdvanced,
    StripeCommandFailed,
    StripeCustomerLinked,
    StripeInvoiceChanged,
    StripeSubscriptionChanged,
)
from libs.contracts.tenants import ClockAdvanceRequested
from libs.ids import new_id, public_id
from libs.observability.tracing import configure_tracing, start_span
from tests.services.stripe_sync.conftest import OWNER_USER_ID, World


async def test_a_checkout_leads_to_all_facts_of_the_tenant(world: World) -> None:
    acme = world.tenants["acme"]
    version_id = await world.plan()
    answer = await world.checkout(acme)
    assert answer.status_code == 201, answer.text
    assert answer.json()["url"].startswith(world.sandbox.url)
    await world.log.settle()
    (linked,) = world.log.events(StripeCustomerLinked)
    assert (linked.tenant_id, linked.data.customer_id) == (acme.id, acme.customer_id)

    world.sandbox.pay(answer.json()["session_id"])
    await world.take_webhooks()

    subscription = world.log.events(StripeSubscriptionChanged)[-1]
    assert subscription.tenant_id == acme.id
    assert subscription.data.status == "active"
    assert subscription.data.plan_version_id == version_id
    assert subscription.data.customer_id == acme.customer_id
    invoice = world.log.events(StripeInvoiceChanged)[-1]
    assert (invoice.data.status, invoice.data.total_minor) == ("paid", 2900)
    assert (invoice.data.billing_reason, invoice.data.held) == ("subscription_create", False)
    assert invoice.data.stripe_subscription_id == subscription.data.stripe_subscription_id
    (payment,) = world.log.events(PaymentSucceeded)
    assert (payment.data.amount_minor, payment.data.currency) == (2900, "EUR")
    assert payment.data.stripe_invoice_id == invoice.data.stripe_invoice_id
    assert payment.data.collected_by == "platform"
    (moved,) = world.log.events(BalanceTransactionRecorded)
    assert (moved.data.kind, moved.data.amount_minor) == ("charge", 2900)
    assert moved.data.net_minor == moved.data.amount_minor - moved.data.fee_minor
    assert moved.data.source_id == payment.data.stripe_charge_id
    assert {e.tenant_id for e in (subscription, invoice, payment, moved)} == {acme.id}

    listed = (await world.get(acme, "/api/v1/payments")).json()
    (item,) = listed["items"]
    assert (item["status"], item["amount"]["amount_minor"]) == ("COMPLETED", 2900)
    assert (await world.get(acme, f"/api/v1/payments/{item['id']}")).json() == item


async def test_metadata_stands_on_every_object(world: World) -> None:
    acme = world.tenants["acme"]
    version_id = await world.plan()
    page = (await world.checkout(acme)).json()
    await world.subscribe(acme)
    raw = {row["object_type"]: row["raw"] for row in await world.rows("stripe_object")}
    mirrored, subscription = (json.loads(raw[kind]) for kind in ("customer", "subscription"))
    (customer,) = [
        event["data"]["object"]
        for event in world.sandbox.events(world.key)
        if event["type"] == "customer.created"
    ]
    about = {
        "tenant_id": str(acme.id),
        "tenant_type": "organization",
        "owner": public_id("user", OWNER_USER_ID),
    }
    assert about.items() <= customer["metadata"].items()
    assert customer["metadata"]["name"] == customer["name"] == "acme Ltd"
    assert customer["metadata"]["billing_email"] == customer["email"] == "billing@acme.example"
    session = world.sandbox.get(f"/v1/checkout/sessions/{page['session_id']}", world.key)
    assert session["subscription"] == subscription["id"]
    for sold in (session, subscription):
        assert about.items() <= sold["metadata"].items()
        assert sold["metadata"]["plan"] == "pro"
        assert sold["metadata"]["user"].startswith("key_")
    # The mirror has what it is about, and nothing of the people.
    assert mirrored["metadata"]["tenant_id"] == str(acme.id)
    for row in raw.values():
        assert "acme.example" not in row
        assert "acme Ltd" not in row
    metadata = subscription["metadata"]
    assert metadata["plan_version_id"] == str(version_id)
    assert metadata["plan"] == metadata["plan_key"] == "pro"
    assert metadata["tenant_type"] == "organization"
    assert metadata["user"].startswith("key_")


async def completed_by(world: World, *, usage_minor: int) -> None:
    """Billing's part: every held draft gets its usage line, once."""
    ordered = {str(row["payload"]) for row in await world.rows("command")}
    for event in world.log.events(StripeInvoiceChanged):
        invoice = event.data
        if not invoice.held or any(invoice.stripe_invoice_id in text for text in ordered):
            continue
        line = CommandLine(
            line_id=new_id(),
            description="Usage",
            amount_minor=usage_minor,
            period_from=invoice.period_start,
            period_to=invoice.period_end,
        )
        command = CompleteInvoice(
            command_id=new_id(),
            invoice_id=new_id(),
            stripe_invoice_id=invoice.stripe_invoice_id,
            currency="EUR",
            lines=(line,),
        )
        await world.publish(command, event.tenant_id)


async def test_a_renewal_carries_the_usage_and_is_collected(world: World) -> None:
    acme = world.tenants["acme"]
    await world.plan()
    await world.subscribe(acme)
    before = world.log.events(StripeSubscriptionChanged)[-1].data
    target = before.period_end + timedelta(days=1)
    advance_id = new_id()
    await world.publish(ClockAdvanceRequested(advance_id=advance_id, advance_to=target), acme.id)
    for _ in range(400):
        await world.take_webhooks()
        await completed_by(world, usage_minor=1234)
        hops = [event.data for event in world.log.events(StripeClockAdvanced)]
        if hops and hops[-1].final:
            break
    assert [(hop.reached, hop.final) for hop in hops] == [
        (before.period_end + timedelta(minutes=5), False),
        (target, True),
    ]
    await world.take_webhooks()
    cycle = [
        event.data
        for event in world.log.events(StripeInvoiceChanged)
        if event.data.billing_reason == "subscription_cycle"
    ]
    assert (cycle[0].status, cycle[0].held, cycle[0].total_minor) == ("draft", True, 2900)
    assert (cycle[0].period_start, cycle[0].period_end) == (before.period_start, before.period_end)
    last = cycle[-1]
    assert (last.status, last.total_minor, last.amount_paid_minor) == ("paid", 4134, 4134)
    assert sum(line.line_id is not None for line in last.lines) == 1
    assert [event.version for event in cycle] == list(range(1, len(cycle) + 1))
    assert len(world.log.events(PaymentSucceeded)) == 2
    assert len(world.log.events(BalanceTransactionRecorded)) == 2
    assert world.log.events(StripeSubscriptionChanged)[-1].data.period_start == before.period_end
    assert world.log.events(StripeCommandFailed) == []

    balance = world.sandbox.get("/v1/balance", world.key)
    at_stripe = sum(e["amount"] for k in ("available", "pending") for e in balance[k])
    net = sum(e.data.net_minor for e in world.log.events(BalanceTransactionRecorded))
    assert at_stripe == net


async def test_another_interval_cuts_the_period_off_and_is_billed_at_once(world: World) -> None:
    acme = world.tenants["acme"]
    await world.plan()
    await world.subscribe(acme)
    before = world.log.events(StripeSubscriptionChanged)[-1].data
    path = f"/v1/subscriptions/{before.stripe_subscription_id}"
    (item,) = world.sandbox.get(path, world.key)["items"]["data"]
    terms = {"product": item["price"]["product"], "currency": "eur", "unit_amount": 29_000}
    recurring = {"recurring": {"interval": "year"}}
    price = await world.api.post("x", "/v1/prices", terms | recurring, idempotency_key="year")
    items = {"items": [{"id": item["id"], "price": price["id"]}]}
    await world.api.post("x", path, items, idempotency_key="change")
    await world.take_webhooks()
    after = world.log.events(StripeSubscriptionChanged)[-1].data
    assert before.period_start <= after.period_start < before.period_end < after.period_end
    invoice = world.log.events(StripeInvoiceChanged)[-1].data
    assert (invoice.billing_reason, invoice.status) == ("subscription_update", "paid")
    # The line of the period that begins tells that it does: by it billing knows, whatever it has seen.
    (line,) = [line for line in invoice.lines if not line.proration]
    assert (line.period_start, line.period_end) == (after.period_start, after.period_end)
    assert line.period_start == invoice.period_end


async def test_a_tenant_without_a_stripe_clock_advances_at_once(world: World) -> None:
    target = utc_now() + timedelta(days=400)
    request = ClockAdvanceRequested(advance_id=new_id(), advance_to=target)
    await world.publish(request, world.tenants["globex"].id)
    await world.settle()
    (hop,) = world.log.events(StripeClockAdvanced)
    assert (hop.data.reached, hop.data.final) == (target, True)


async def test_replay_changes_nothing_and_calls_nothing(world: World) -> None:
    acme = world.tenants["acme"]
    await world.plan()
    await world.subscribe(acme)
    end = world.log.events(StripeSubscriptionChanged)[-1].data.period_end
    request = ClockAdvanceRequested(advance_id=new_id(), advance_to=end + timedelta(minutes=7))
    await world.publish(request, acme.id)
    for _ in range(400):
        await world.take_webhooks()
        await completed_by(world, usage_minor=500)
        hops = world.log.events(StripeClockAdvanced)
        if hops and hops[-1].data.final:
            break
    await world.take_webhooks()
    before, at_stripe = await world.checksum(), len(world.sandbox.events(world.key))
    for clear in (False, True):
        await world.log.replay(clear_inboxes=clear)
        await world.settle()
        assert await world.checksum() == before
        assert len(world.sandbox.events(world.key)) == at_stripe


async def test_the_call_to_stripe_stands_in_the_trace_of_its_cause(world: World) -> None:
    configure_tracing("trial", None)
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    command = CompleteInvoice(
        command_id=new_id(),
        invoice_id=new_id(),
        stripe_invoice_id="in_unknown",
        currency="EUR",
        lines=(),
    )
    with start_span("the cause") as cause:
        await world.publish(command, world.tenants["acme"].id)
    await world.settle()
    wanted = cause.get_span_context().trace_id
    names = [
        span.name
        for span in exporter.get_finished_spans()
        if span.context is not None and span.context.trace_id == wanted
    ]
    assert "stripe_sync CompleteInvoice" in names
    assert any(name.startswith("stripe ") for name in names)
