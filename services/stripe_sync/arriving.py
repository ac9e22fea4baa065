"""Webhooks as they arrive: many at once, and one by one what ends an account or is only tried."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from libs.contracts.gateway import StripeEventReceived
from libs.db.pool import Tx
from libs.messaging.apply import Delivery
from services.stripe_sync import checks, connections, finding, marks


async def take_in(tx: Tx, deliveries: Sequence[Delivery]) -> None:
    """Take events in, in their order: whatever they tell of is marked, to be fetched.

    What ends an account takes away the marks made before it, and none of those made after it.
    """
    everybody, cause = tx.scope, tx.cause
    for is_alone, run in itertools.groupby(deliveries, key=_is_alone):
        if is_alone:
            for delivery in run:
                await tx.enter(replace(everybody, tenants=(delivery.event.tenant_id,)))
                tx.cause = delivery.cause
                await _take_alone(tx, delivery)
            continue
        together = list(run)
        await tx.enter(everybody)
        await finding.note_taken(tx, [delivery.event.data for delivery in together])
        await marks.take_events(tx, together)
    tx.cause = cause


def _is_alone(delivery: Delivery) -> bool:
    fact: StripeEventReceived = delivery.event.data
    return fact.dry_run or fact.event_type == connections.DEAUTHORIZED


async def _take_alone(tx: Tx, delivery: Delivery) -> None:
    """Of a replay that is only tried the event is compared; else its account has come to its end."""
    if delivery.event.data.dry_run:
        await checks.take_event(tx, delivery.event)
        return
    await finding.note_taken(tx, [delivery.event.data])
    await connections.take_deauthorization(tx, delivery.event)
