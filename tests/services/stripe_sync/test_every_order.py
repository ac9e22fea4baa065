"""All 720 orders of six events of a subscription's life, with duplicates: the same end of all.

Each order is a life of its own: a tenant, a customer and Stripe ids that no other has. An event never
comes before what it tells of: Stripe is at least as far as the latest event that has come.
"""

import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import permutations
from typing import Any, cast
from uuid import UUID

from libs.clock import from_unix, utc_now
from libs.contracts.envelope import wrap
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    PaymentFailed,
    PaymentSucceeded,
    RefundChanged,
)
from libs.contracts.tenants import PLATFORM_TENANT_ID, TenantSnapshot
from libs.db.tenant import Scope
from libs.directory.local import Directory
from libs.ids import new_id
from services.ledger.handlers import HANDLERS as LEDGER_HANDLERS
from services.stripe_sync import store_objects
from services.stripe_sync.client import Json, StripeApi
from services.stripe_sync.identities import Identity
from services.stripe_sync.refresh import AccountWorker
from services.stripe_sync.store_objects import Owner
from tests.services.stripe_sync.conftest import DECLINED_LATER, World
from tests.services.stripe_sync.recording import Life, Playback, Recording, fill, plain

EVENTS = 6
ORDERS = list(permutations(range(EVENTS)))
MIRRORED_WITHIN_SECONDS = 100
"""One event of all lives; some objects are tried twice, because another is not known yet."""
MONEY_FACTS = (PaymentSucceeded, PaymentFailed, BalanceTransactionRecorded)


async def live_once(world: World) -> tuple[Recording, str]:
    """Subscribe, fail to renew, pay after all, get a part back, cancel; and the Stripe customer."""
    acme = world.tenants["acme"]
    recording = Recording(acme.id, acme.customer_id)
    await world.plan()
    answer = await world.checkout(acme)
    world.sandbox.pay(answer.json()["session_id"], DECLINED_LATER)
    (link,) = await world.rows("customer_link")
    customer, taken = link["stripe_customer_id"], set[str]()

    def newest(kind: str) -> Json:
        events = world.sandbox.events(world.key)
        found = [each for each in events if each["type"] == kind and each["id"] not in taken]
        taken.add(found[-1]["id"])
        return found[-1]

    async def write(path: str, **params: Any) -> Json:
        return await world.api.post("x", f"/v1/{path}", params, idempotency_key=str(new_id()))

    created, paid = newest("customer.subscription.created"), newest("invoice.paid")
    subscription, first = created["data"]["object"]["id"], paid["data"]["object"]["id"]
    objects = [("customer", customer), ("subscription", subscription), ("invoice", first)]
    objects.append(("payment_intent", newest("payment_intent.succeeded")["data"]["object"]["id"]))
    await recording.stage(world.api, objects, created)
    await recording.stage(world.api, objects, paid)

    draft = await write(
        "invoices", customer=customer, subscription=subscription, auto_advance=False
    )
    await write("invoiceitems", customer=customer, invoice=draft["id"], amount=700, currency="eur")
    await write(f"invoices/{draft['id']}/finalize", auto_advance=True)
    failed = newest("charge.failed")
    attempt = failed["data"]["object"]
    intent = attempt["payment_intent"]
    objects += [("invoice", draft["id"]), ("payment_intent", intent), ("charge", attempt["id"])]
    await recording.stage(world.api, objects, failed)

    await write(f"invoices/{draft['id']}/pay", payment_method="pm_card_visa")
    await recording.stage(world.api, objects, newest("invoice.paid"))
    refund = await write("refunds", payment_intent=intent, amount=200)
    objects.append(("refund", refund["id"]))
    await recording.stage(world.api, objects, newest("refund.created"))
    headers = {"authorization": f"Bearer {world.key}"}
    world.sandbox.client.delete(f"/v1/subscriptions/{subscription}", headers=headers)
    await recording.stage(world.api, objects, newest("customer.subscription.deleted"))
    return recording, customer


async def be_born(world: World, customer: str, count: int) -> list[Life]:
    """So many tenants, whose Stripe customer is known as their own."""
    lives = [Life(number, new_id(), new_id()) for number in range(count)]
    for life in lives:
        snapshot = TenantSnapshot(
            version=1,
            slug=f"life-{life.number}",
            name=f"Life {life.number}",
            tenant_type="organization",
            status="active",
            currency="EUR",
            locale="en",
            self_customer_id=life.customer_id,
        )
        world.log.publish(
            wrap(
                snapshot,
                tenant_id=life.tenant_id,
                mode=None,
                source="test",
                effective_at=utc_now(),
            )
        )
    await world.log.settle()
    everybody = Scope(tuple(life.tenant_id for life in lives), "test")
    async with world.database.transaction(everybody) as tx:
        owners = [
            (f"{customer}{life.suffix}", Owner(life.tenant_id, life.customer_id)) for life in lives
        ]
        await store_objects.claim_all(tx, "platform", owners)
    return lives


def arrive(world: World, event: Json, event_id: str | None = None) -> None:
    """A webhook as the gateway publishes it, each time under an id of its own unless one is given."""
    subject = event["data"]["object"]
    fact = StripeEventReceived(
        account="platform",
        stripe_event_id=event_id or f"evt_{new_id().hex}",
        event_type=event["type"],
        api_version=event["api_version"],
        created_at=from_unix(event["created"]),
        object_type=subject["object"],
        object_id=subject["id"],
        payload=json.dumps(event),
    )
    world.log.publish(
        wrap(
            fact,
            tenant_id=PLATFORM_TENANT_ID,
            mode="test",
            source="gateway",
            effective_at=utc_now(),
        )
    )


async def ends(world: World, lives: Sequence[Life]) -> dict[str, list[int]]:
    """What was kept of each life, told apart by nothing but itself; the lives that ended so."""
    by_tenant: dict[UUID, list[str]] = defaultdict(list)
    queries = {
        "mirror": "select tenant_id, to_jsonb(t) - array['fetched_at', 'version'] "
        "#- '{fact,payment_id}' as row from stripe_sync.stripe_object t",
        "payment": "select tenant_id, to_jsonb(t) - 'payment_id' as row from stripe_sync.payment t",
        "refund": "select tenant_id, to_jsonb(t) - array['payment_id', 'refund_id'] as row "
        "from stripe_sync.refund t",
        "movement": "select tenant_id, to_jsonb(t) as row from stripe_sync.balance_transaction t",
        "entry": "select e.tenant_id, jsonb_build_object('key', e.source_key, 'lines', "
        "jsonb_agg(jsonb_build_array(p.account, p.side, p.amount_minor) order by p.line)) as row "
        "from ledger.journal_entry e join ledger.posting p on p.tenant_id = e.tenant_id "
        "and p.entry_id = e.id group by e.tenant_id, e.source_key",
        "balance": "select tenant_id, to_jsonb(t) - 'last_seq' as row "
        "from ledger.account_balance t",
    }
    async with world.test_database.admin() as admin:
        for name, sql in queries.items():
            for row in await admin.fetch(sql):
                by_tenant[row["tenant_id"]].append(f"{name} {row['row']}")
    for kind in MONEY_FACTS:
        for event in world.log.events(kind):
            text = event.data.model_dump_json(exclude={"payment_id"})
            by_tenant[event.tenant_id].append(f"{kind.__name__} {text}")
    found: dict[str, list[int]] = defaultdict(list)
    for life in lives:
        kept = sorted(plain(text, life) for text in by_tenant[life.tenant_id])
        found["\n".join(kept)].append(life.number)
    return found


async def come_to_rest(world: World, worker: AccountWorker) -> None:
    """Everything that came is mirrored and told."""
    await world.log.settle()
    deadline = time.monotonic() + MIRRORED_WITHIN_SECONDS
    while waiting := await world.pending():
        assert time.monotonic() < deadline, waiting[:5]
        await worker.run_once()
    await world.log.settle()


async def check_one_end(world: World, lives: Sequence[Life], ways: Sequence[Any]) -> None:
    """All lives ended alike, with all that such a life leaves.

    Args:
        ways: what happened to each life, to be shown where one ended otherwise.
    """
    found = await ends(world, lives)
    (end, *others) = sorted(found, key=lambda kept: -len(found[kept]))
    for other in others:
        differing = set(end.splitlines()) ^ set(other.splitlines())
        raise AssertionError(f"{[ways[n] for n in found[other]][:5]}: {sorted(differing)}")
    counted = [line.partition(" ")[0] for line in end.splitlines()]
    assert {name: counted.count(name) for name in counted} | {"balance": 0} == {
        "mirror": 9,
        "payment": 2,
        "refund": 1,
        "movement": 3,
        "entry": 5,
        "balance": 0,
        "PaymentSucceeded": 2,
        "PaymentFailed": 1,
        "BalanceTransactionRecorded": 3,
    }
    assert len(world.log.events(RefundChanged)) == len(lives)


async def test_all_orders_with_duplicates_end_alike(world: World) -> None:
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(world.test_database.open("ledger"))
        world.log.add(ledger, LEDGER_HANDLERS)
        recording, customer = await live_once(world)
        lives = await be_born(world, customer, len(ORDERS))
        playback = Playback(recording, lives)
        identity = Identity("platform", "test", PLATFORM_TENANT_ID, cast(StripeApi, playback))
        worker = AccountWorker(world.database, Directory(world.database), identity)
        chance = random.Random(720)
        for step in range(EVENTS):
            for life, order in zip(lives, ORDERS, strict=True):
                come = order[: step + 1]
                playback.stages[life.number] = max(come)
                again = [chance.choice(come)] if chance.random() < 0.4 else []
                for number in (come[-1], *again):
                    arrive(world, fill(recording.events[number], life))
            await come_to_rest(world, worker)
        await check_one_end(world, lives, ORDERS)
