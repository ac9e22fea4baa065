"""Faults of Stripe and of ourselves at every step: late, never twice, never lost."""

from datetime import timedelta
from typing import Any

import pytest
import stripe
from opentelemetry import trace

from libs.clock import utc_now
from libs.contracts.billing import CommandLine, CompleteInvoice
from libs.contracts.envelope import wrap
from libs.contracts.stripe_sync import (
    PLATFORM_ACCOUNT,
    StripeClockAdvanced,
    StripeCommandFailed,
    StripeInvoiceChanged,
    StripeSubscriptionChanged,
)
from libs.contracts.tenants import ClockAdvanceRequested
from libs.ids import new_id
from libs.observability.tracing import configure_tracing, start_span
from libs.testing.databases import TestDatabase
from services.stripe_sync import client, commands, fetching, store_marks, store_work
from services.stripe_sync.lease import LeaseLostError, hold, leased
from services.stripe_sync.once import Writer
from tests.services.stripe_sync.conftest import Tenant, World, nobody


async def to_the_period_end(world: World, tenant: Tenant) -> Any:
    """Subscribe and move to the end of the period; the held draft."""
    await world.plan()
    await world.subscribe(tenant)
    end = world.log.events(StripeSubscriptionChanged)[-1].data.period_end
    request = ClockAdvanceRequested(advance_id=new_id(), advance_to=end + timedelta(minutes=1))
    await world.publish(request, tenant.id)
    for _ in range(200):
        await world.take_webhooks()
        held = [e.data for e in world.log.events(StripeInvoiceChanged) if e.data.held]
        if held:
            return held[-1]
    raise AssertionError("no draft was held")


def completion(invoice: Any, *amounts: int) -> CompleteInvoice:
    return CompleteInvoice(
        command_id=new_id(),
        invoice_id=new_id(),
        stripe_invoice_id=invoice.stripe_invoice_id,
        currency="EUR",
        lines=tuple(
            CommandLine(line_id=new_id(), description="Usage", amount_minor=amount)
            for amount in amounts
        ),
    )


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "status": 500, "path": "/v1/invoiceitems", "moment": "after"},
        {"kind": "error", "status": 500, "path": "/v1/invoiceitems", "moment": "before"},
        {"kind": "error", "status": 429, "path": "/v1/invoice", "stored": False},
        {"kind": "cut", "path": "/v1/invoices", "moment": "after"},
        {"kind": "cut", "path": "/v1/invoiceitems", "moment": "before"},
    ],
    ids=lambda fault: "_".join(str(value) for value in fault.values()).replace("/", ""),
)
async def test_lines_stand_once_whatever_fails(world: World, fault: dict[str, Any]) -> None:
    acme = world.tenants["acme"]
    draft = await to_the_period_end(world, acme)
    world.sandbox.fault(**fault, count=2)
    command = completion(draft, 1000, -300, 77)
    await world.publish(command, acme.id)
    await world.settle()
    await world.take_webhooks()
    last = world.log.events(StripeInvoiceChanged)[-1].data
    assert (last.status, last.total_minor) == ("paid", 2900 + 1000 - 300 + 77)
    ours = [line.line_id for line in last.lines if line.line_id is not None]
    assert sorted(ours) == sorted(line.line_id for line in command.lines)
    assert world.log.events(StripeCommandFailed) == []


async def test_a_worker_killed_between_lines_is_taken_over(world: World) -> None:
    acme = world.tenants["acme"]
    draft = await to_the_period_end(world, acme)
    command = completion(draft, 11, 22)
    writer = Writer(world.database, world.api, acme.id, "test")
    first_only = command.model_copy(update={"lines": command.lines[:1]})
    invoice = await world.api.get("invoice.retrieve", f"/v1/invoices/{draft.stripe_invoice_id}")
    await commands._add_line(writer, first_only, invoice, command.lines[0])
    await world.publish(command, acme.id)
    await world.settle()
    await world.take_webhooks()
    assert world.log.events(StripeInvoiceChanged)[-1].data.total_minor == 2900 + 33


async def test_a_draft_that_went_out_without_its_lines_is_reported_once(world: World) -> None:
    acme = world.tenants["acme"]
    await world.plan()
    await world.subscribe(acme)
    paid = world.log.events(StripeInvoiceChanged)[-1].data
    command = completion(paid, 100)
    await world.publish(command, acme.id)
    await world.settle()
    (failed,) = world.log.events(StripeCommandFailed)
    assert (failed.data.command_id, failed.data.code) == (command.command_id, "invoice_not_draft")
    await world.log.replay(clear_inboxes=True)
    await world.settle()
    assert len(world.log.events(StripeCommandFailed)) == 1


async def test_a_clock_goes_on_where_it_was_left(world: World) -> None:
    """Stripe moved the clock and the answer was lost; the next look finds out."""
    acme = world.tenants["acme"]
    await world.plan()
    await world.subscribe(acme)
    end = world.log.events(StripeSubscriptionChanged)[-1].data.period_end
    target = end - timedelta(days=1)
    world.sandbox.fault(
        kind="error", status=500, path="/v1/test_helpers", method="POST", moment="after", count=3
    )
    await world.publish(ClockAdvanceRequested(advance_id=new_id(), advance_to=target), acme.id)
    for _ in range(400):
        await world.take_webhooks()
        if world.log.events(StripeClockAdvanced):
            break
    (hop,) = world.log.events(StripeClockAdvanced)
    assert (hop.data.reached, hop.data.final) == (target, True)


async def test_a_clock_that_stripe_refuses_to_move_is_given_up_and_said_once(world: World) -> None:
    acme = world.tenants["acme"]
    await world.plan()
    await world.subscribe(acme)
    shown = world.log.events(StripeSubscriptionChanged)[-1].data.period_start
    world.sandbox.fault(
        kind="error", status=400, path="/v1/test_helpers", method="POST", moment="before", count=1
    )
    request = ClockAdvanceRequested(advance_id=new_id(), advance_to=shown + timedelta(days=2))
    await world.publish(request, acme.id)
    await world.settle()
    (failed,) = world.log.events(StripeCommandFailed)
    assert failed.data.command_id == request.advance_id
    again = ClockAdvanceRequested(advance_id=new_id(), advance_to=shown + timedelta(days=2))
    await world.publish(again, acme.id)
    for _ in range(400):
        await world.take_webhooks()
        if world.log.events(StripeClockAdvanced):
            break
    assert world.log.events(StripeClockAdvanced)[-1].data.advance_id == again.advance_id
    assert len(world.log.events(StripeCommandFailed)) == 1


async def test_fetching_stands_in_the_trace_of_the_webhook_that_asked_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    real = fetching.fetch

    async def watched(api: Any, kind: str, object_id: str, **rest: Any) -> Any:
        context = trace.get_current_span().get_span_context()
        seen[object_id] = trace.format_trace_id(context.trace_id)
        return await real(api, kind, object_id, **rest)

    monkeypatch.setattr(fetching, "fetch", watched)
    configure_tracing("trial", None)
    with start_span("webhook") as span:
        wanted = trace.format_trace_id(span.get_span_context().trace_id)
        async with world.database.tenant(world.tenants["acme"].id, "test") as tx:
            await store_marks.mark(tx, PLATFORM_ACCOUNT, [("customer", "cus_absent")])
    await world.settle()
    assert seen["cus_absent"] == wanted


async def test_a_rate_limit_slows_everybody_down_and_loses_nothing(world: World) -> None:
    await world.plan()
    answer = await world.checkout(world.tenants["acme"])
    world.sandbox.pay(answer.json()["session_id"])
    world.sandbox.fault(kind="error", status=429, method="GET", path="/v1/invoices", count=3)
    await world.take_webhooks()
    assert world.log.events(StripeInvoiceChanged)[-1].data.status == "paid"


async def test_a_lease_that_was_taken_over_writes_nothing(world: World) -> None:
    async with leased(world.database, "account:platform:test") as lease:
        assert lease is not None
        async with leased(world.database, "account:platform:test") as other:
            assert other is None
        async with world.database.transaction() as tx:
            await tx.execute("update lease set token = $1", new_id())
        with pytest.raises(LeaseLostError):
            async with world.database.transaction() as tx:
                await hold(tx, lease)


async def test_a_command_tried_for_weeks_is_put_off_as_before(database: TestDatabase) -> None:
    """Without a key for its mode a command waits; the pause must not outgrow a float."""
    tenant_id, command_id = new_id(), new_id()
    event = wrap(
        CompleteInvoice(
            command_id=command_id,
            invoice_id=new_id(),
            stripe_invoice_id="in_1",
            currency="EUR",
            lines=(),
        ),
        tenant_id=tenant_id,
        mode="live",
        source="billing",
        effective_at=utc_now(),
    )
    async with database.open("stripe_sync") as opened:
        async with opened.tenant(tenant_id, "live") as tx:
            payload = event.data.model_dump(mode="json")
            await store_work.insert_command(
                tx, command_id, commands.COMPLETE_INVOICE, payload, event, {}
            )
            await tx.execute("update command set attempts = 5000")
        await commands.CommandWorker(opened, nobody(opened)).run_once()
        async with opened.tenant(tenant_id, "live") as tx:
            assert await tx.fetchval("select attempts from command") == 5001


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (r'{"a": ["x\u0000y", {"b": "\u0000"}]}', {"a": ["xy", {"b": ""}]}),
        (r'{"a": "x\\u0000y"}', {"a": r"x\u0000y"}),
    ],
)
def test_what_no_row_can_keep_is_left_out_of_an_answer(said: str, kept: Any) -> None:
    assert client._answer(stripe.StripeResponse(said, 200, {})) == kept
