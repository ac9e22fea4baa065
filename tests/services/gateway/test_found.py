"""Events that stood in Stripe's list and never arrived: one way in, trusted only as far as asked."""

import json
from typing import Any
from uuid import UUID

import pytest

from libs.contracts.envelope import Envelope, wrap
from libs.contracts.stripe_sync import StripeEventFound
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.testing.memory_log import EPOCH, MemoryLog
from services.gateway.handlers import HANDLERS
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import (
    ACME,
    ACME_CUSTOMER,
    GLOBEX,
    Gateway,
    about,
    snapshot_event,
)


def found(
    event: dict[str, Any],
    *,
    tenant_id: UUID = PLATFORM_TENANT_ID,
    account: str = "platform",
    **changes: Any,
) -> Envelope[StripeEventFound]:
    """What stripe_sync tells of an event that it found."""
    values: dict[str, Any] = {
        "account": account,
        "stripe_event_id": event["id"],
        "event_type": event["type"],
        "created_at": EPOCH,
        "payload": json.dumps(event),
    }
    fact = StripeEventFound(**(values | changes))
    return wrap(fact, tenant_id=tenant_id, mode="test", source="stripe_sync", effective_at=EPOCH)


@pytest.fixture
async def connected(gateway: Gateway) -> Gateway:
    """Globex has an account of its own."""
    await Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD").tell()
    return gateway


async def test_what_was_found_comes_in_like_a_webhook_and_once(
    gateway: Gateway, log: MemoryLog
) -> None:
    log.add(gateway.database, HANDLERS, parks=False)
    event = about(customer=ACME_CUSTOMER)
    for _ in range(2):
        log.publish(found(event))
    await log.settle()
    (row,) = await gateway.archived()
    assert (row["tenant_id"], row["assignment"], row["account"]) == (ACME, "customer", "platform")
    assert row["headers"] == {"source": "stripe_events_list"}
    assert json.loads(row["payload"]) == event
    ((tenant_id, mode, published),) = await gateway.published()
    assert (tenant_id, mode, published["data"]["stripe_event_id"]) == (ACME, "test", event["id"])
    assert (await gateway.send(event)).json() == {"status": "duplicate"}


async def test_what_arrived_is_not_taken_again(gateway: Gateway, log: MemoryLog) -> None:
    log.add(gateway.database, HANDLERS, parks=False)
    event = about(customer=ACME_CUSTOMER)
    await gateway.send(event)
    log.publish(found(event))
    await log.settle()
    assert len(await gateway.published()) == 1


async def test_an_event_of_a_tenants_own_account_is_the_tenants(
    connected: Gateway, log: MemoryLog
) -> None:
    log.add(connected.database, HANDLERS, parks=False)
    log.publish(found(about(customer=ACME_CUSTOMER), tenant_id=GLOBEX, account="acct_globex"))
    await log.settle()
    (row,) = await connected.archived()
    assert (row["tenant_id"], row["account"], row["assignment"]) == (
        GLOBEX,
        "acct_globex",
        "account",
    )


@pytest.mark.parametrize(
    ("event", "how", "reason"),
    [
        (snapshot_event(livemode=True), {}, "livemode_mismatch"),
        (snapshot_event(), {"stripe_event_id": "evt_other"}, "event_mismatch"),
        (snapshot_event(account="acct_globex"), {}, "account_unexpected"),
        (
            snapshot_event(account="acct_other"),
            {"account": "acct_globex", "tenant_id": GLOBEX},
            "account_unexpected",
        ),
        (snapshot_event(), {"account": "acct_globex", "tenant_id": ACME}, "tenant_mismatch"),
        (snapshot_event(), {"account": "acct_nobody", "tenant_id": ACME}, "unknown_account"),
    ],
)
async def test_what_is_not_of_the_scope_asked_for_is_kept_aside(
    connected: Gateway, log: MemoryLog, event: dict[str, Any], how: dict[str, Any], reason: str
) -> None:
    log.add(connected.database, HANDLERS, parks=False)
    log.publish(found(event, **how))
    await log.settle()
    (row,) = await connected.archived()
    assert (row["tenant_id"], row["quarantine_reason"]) == (PLATFORM_TENANT_ID, reason)
    assert await connected.published() == []
    kinds = [event["data"]["kind"] for _, event in await connected.told("SecurityEventRaised")]
    assert kinds == [f"stripe_event_quarantined_{reason}"]


async def test_what_is_no_event_is_put_aside_with_its_bytes(
    gateway: Gateway, log: MemoryLog
) -> None:
    log.add(gateway.database, HANDLERS, parks=False)
    log.publish(found(snapshot_event(), payload='{"object": "galaxy"}'))
    log.publish(found(snapshot_event()))
    await log.settle()
    assert await gateway.count("dead_letter") == 1
    assert len(await gateway.published()) == 1


async def test_replaying_the_topics_changes_nothing(connected: Gateway, log: MemoryLog) -> None:
    log.add(connected.database, HANDLERS, parks=False)
    log.publish(found(about(customer=ACME_CUSTOMER)))
    log.publish(found(snapshot_event(), tenant_id=GLOBEX, account="acct_globex"))
    log.publish(found(snapshot_event(livemode=True)))
    await log.settle()

    async def rows() -> Any:
        return (
            [dict(row) for row in await connected.archived()],
            await connected.count("outbox"),
            await connected.count("webhook_event"),
        )

    before = await rows()
    for clear in (False, True):
        await log.replay(clear_inboxes=clear)
        assert await rows() == before
