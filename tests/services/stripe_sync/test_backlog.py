"""A backlog of webhooks: taken in together, read in lists, and the same mirror and facts as ever."""

import itertools
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace
from prometheus_client import REGISTRY

from libs.clock import from_unix, utc_now
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_accounts import StripeAccountDeauthorized
from libs.contracts.stripe_sync import BalanceTransactionRecorded, PaymentSucceeded
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.tenant import Scope
from libs.observability.tracing import configure_tracing, start_span
from services.stripe_sync import listing, refresh, store_marks
from services.stripe_sync.marks import BALANCE
from services.stripe_sync.store_marks import Mark
from tests.services.stripe_sync.accounts import own_account
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.test_orders import mirror

PAYMENTS = 12
FETCHED, LISTED = "payment_intent.retrieve", "payment_intent.list"
INTENTS = "/v1/payment_intents"


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was told counts as settled at Stripe."""
    monkeypatch.setattr(listing, "SETTLED_AFTER", timedelta(seconds=-60))


def calls(operation: str) -> float:
    """Calls to Stripe that went well."""
    labels = {"operation": operation, "outcome": "ok"}
    return REGISTRY.get_sample_value("sluice_stripe_requests_total", labels) or 0.0


def refused(operation: str) -> float:
    """Calls for what Stripe has not."""
    labels = {"operation": operation, "outcome": "missing"}
    return REGISTRY.get_sample_value("sluice_stripe_requests_total", labels) or 0.0


def pay_at_stripe(world: World, count: int) -> list[str]:
    """Payments that only Stripe knows of, each with its tenant in its metadata; their ids."""
    tenants = [world.tenants["acme"].id, world.tenants["globex"].id]
    found = []
    for place in range(count):
        form = {
            "amount": 1000 + place,
            "currency": "eur",
            "payment_method": "pm_card_visa",
            "confirm": "true",
            "off_session": "true",
            "metadata[tenant_id]": str(tenants[place % 2]),
        }
        headers = {"authorization": f"Bearer {world.key}"}
        answer = world.sandbox.client.post(INTENTS, data=form, headers=headers)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["id"])
    return found


async def mark_again(world: World, ids: list[str]) -> None:
    """By somebody who knows of no event: each is fetched by itself."""
    async with world.database.tenant(PLATFORM_TENANT_ID, "test") as tx:
        await store_marks.mark(tx, "platform", [("payment_intent", each) for each in ids])
    await world.settle()


@pytest.mark.usefixtures("long_ago")
async def test_payments_of_a_backlog_are_read_in_a_list(world: World) -> None:
    ids = pay_at_stripe(world, PAYMENTS)
    fetched, listed = calls(FETCHED), calls(LISTED)
    await world.take_webhooks()
    assert calls(LISTED) == listed + 1
    assert calls(FETCHED) == fetched
    paid = world.log.events(PaymentSucceeded)
    assert {each.data.stripe_payment_intent_id for each in paid} == set(ids)
    assert Counter(each.tenant_id for each in paid) == {
        world.tenants["acme"].id: PAYMENTS / 2,
        world.tenants["globex"].id: PAYMENTS / 2,
    }
    assert len(paid) == len(world.log.events(BalanceTransactionRecorded)) == PAYMENTS

    before, said = await mirror(world), sum(map(len, world.log.topics.values()))
    await mark_again(world, ids)
    assert calls(FETCHED) == fetched + PAYMENTS
    assert await mirror(world) == before, "a list shows what a fetch shows"
    assert sum(map(len, world.log.topics.values())) == said


async def test_what_changed_just_now_is_fetched_by_itself(world: World) -> None:
    pay_at_stripe(world, PAYMENTS)
    listed = calls(LISTED)
    await world.take_webhooks()
    assert calls(LISTED) == listed
    assert len(world.log.events(PaymentSucceeded)) == PAYMENTS


def told_again(world: World, turns: int) -> list[list[dict[str, Any]]]:
    """What came of each payment an hour ago, by webhooks that come late, so many times."""
    events = [e for e in world.sandbox.events(world.key) if e["type"] == "payment_intent.succeeded"]
    return [
        [e | {"id": f"{e['id']}_{turn}", "created": e["created"] - 3600} for e in events]
        for turn in range(turns)
    ]


async def deliver(world: World, events: list[dict[str, Any]]) -> tuple[float, float]:
    """Lists read, and payments fetched, because of events."""
    listed, fetched = calls(LISTED), calls(FETCHED)
    world.deliver(events)
    await world.settle()
    return calls(LISTED) - listed, calls(FETCHED) - fetched


async def test_what_the_mirror_has_from_just_now_is_not_replaced_out_of_a_list(
    world: World,
) -> None:
    """A list may be older than the mirror: where they differ it is fetched, also for its charge."""
    pay_at_stripe(world, PAYMENTS)
    first, second, third = told_again(world, 3)
    assert await deliver(world, first) == (1, 0)
    before, said = await mirror(world), sum(map(len, world.log.topics.values()))
    assert await deliver(world, second) == (1, 0)
    assert await mirror(world) == before
    assert sum(map(len, world.log.topics.values())) == said + PAYMENTS

    async with world.test_database.admin() as admin:
        for kind in ("payment_intent", "charge"):
            await admin.execute(
                "update stripe_sync.stripe_object set raw = raw || '{\"livemode\": null}' "
                "where object_id = (select max(object_id) from stripe_sync.stripe_object "
                "where object_type = $1)",
                kind,
            )
        changed = await admin.fetchval(
            "select count(distinct coalesce(raw ->> 'payment_intent', object_id)) "
            "from stripe_sync.stripe_object where raw -> 'livemode' = 'null'"
        )
    assert await deliver(world, third) == (1, changed)
    assert await mirror(world) == before


async def ask_for_transactions(world: World) -> None:
    """Have the balance transactions listed, as is done every half minute."""
    async with world.database.tenant(PLATFORM_TENANT_ID, "test") as tx:
        await store_marks.mark(tx, "platform", [BALANCE])


@pytest.mark.usefixtures("long_ago")
async def test_payments_that_only_movements_tell_of_are_read_in_a_list(world: World) -> None:
    ids = pay_at_stripe(world, PAYMENTS)
    listed, fetched = calls(LISTED), calls(FETCHED)
    await ask_for_transactions(world)
    await world.settle()
    assert (calls(LISTED) - listed, calls(FETCHED) - fetched) == (1, 0)
    paid = world.log.events(PaymentSucceeded)
    assert {each.data.stripe_payment_intent_id for each in paid} == set(ids)
    assert len(world.log.events(BalanceTransactionRecorded)) == PAYMENTS


async def test_movements_are_listed_once_a_backlog_is_worked_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that nobody knows whose most of them are, and the list would be read for nothing."""
    monkeypatch.setattr(refresh, "BATCH_OBJECTS", 4)
    pay_at_stripe(world, PAYMENTS)
    movements = calls("balance_transaction.list")
    await ask_for_transactions(world)
    await world.take_webhooks()
    assert calls("balance_transaction.list") == movements + 1
    assert len(world.log.events(BalanceTransactionRecorded)) == PAYMENTS
    assert await world.pending() == []


async def test_movements_are_listed_when_the_backlog_does_not_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over after one batch: whenever the worker looks, 15 of its 20 seconds have gone.

    And what asks for movements is made anew by each webhook of money, behind all that waits.
    """
    monkeypatch.setattr(refresh, "BATCH_OBJECTS", 4)
    began, looks = utc_now(), itertools.count()
    monkeypatch.setattr(refresh, "utc_now", lambda: began + timedelta(seconds=15 * next(looks)))
    pay_at_stripe(world, PAYMENTS)
    movements = calls("balance_transaction.list")
    world.deliver(world.sandbox.events(world.key))
    await world.log.settle()
    await ask_for_transactions(world)
    await world.work()
    assert calls("balance_transaction.list") == movements + 1
    left = [each for each in await world.pending() if each["object_type"] == "payment_intent"]
    assert len(left) > 4


@pytest.mark.usefixtures("long_ago")
async def test_where_a_list_is_not_shown_each_is_fetched(world: World) -> None:
    pay_at_stripe(world, PAYMENTS)
    world.sandbox.fault(kind="error", status=403, stored=False, method="GET", path=INTENTS, count=1)
    fetched = calls(FETCHED)
    await world.take_webhooks()
    assert calls(FETCHED) == fetched + PAYMENTS
    assert len(world.log.events(PaymentSucceeded)) == PAYMENTS


@pytest.mark.usefixtures("long_ago")
async def test_what_a_list_has_not_is_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "LISTED_FROM", 2)
    (paid,) = pay_at_stripe(world, 1)
    events = [
        each
        for each in world.sandbox.events(world.key)
        if each["type"] == "payment_intent.succeeded"
    ]
    gone = events[0]["data"]["object"] | {"id": "pi_gone"}
    listed, missing = calls(LISTED), refused(FETCHED)
    world.deliver([*events, events[0] | {"id": "evt_gone", "data": {"object": gone}}])
    await world.settle()
    assert calls(LISTED) == listed + 1
    assert refused(FETCHED) == missing + 1
    assert [each.data.stripe_payment_intent_id for each in world.log.events(PaymentSucceeded)] == [
        paid
    ]
    assert "pi_gone" not in await mirror(world)


async def test_what_ends_an_account_ends_what_came_before_it_alone(world: World) -> None:
    """All in one batch: what came before is not fetched any more, what came after it is."""
    own = await own_account(world, "acme", "CONNECT_STANDARD")
    await world.settle()
    before, after = [await own.create_customer(name=name) for name in ("before", "after")]
    created = [each for each in own.events() if each["type"] == "customer.created"]
    end = created[0] | {"id": "evt_end", "type": "account.application.deauthorized"}
    own.deliver(created[0])
    own.deliver(end)
    own.deliver(created[1])
    await world.log.settle()
    marked = {row["object_id"] for row in await world.rows("dirty_object")}
    assert (before["id"] in marked, after["id"] in marked) == (False, True)
    assert len(world.log.events(StripeAccountDeauthorized)) == 1
    told = world.log.events(StripeAccountDeauthorized)[0]
    (arrived,) = [
        each
        for each in world.log.events(StripeEventReceived)
        if each.data.stripe_event_id == "evt_end"
    ]
    assert told.causation_id == arrived.id


async def test_marks_of_one_batch_keep_their_order_and_each_its_trace(world: World) -> None:
    """The batch is one statement; that it sorts what it locks must not show."""
    configure_tracing("test", None)
    events: list[dict[str, Any]] = [
        {
            "id": f"evt_{name}",
            "type": "customer.updated",
            "api_version": None,
            "created": 1_790_000_000 + place,
            "data": {
                "object": {"object": "customer", "id": f"cus_{name}", "created": 1_700_000_000}
            },
        }
        for place, name in enumerate(("c", "a", "b", "c"))
    ]
    traces: dict[str, str] = {}
    for event in events:
        with start_span("arrival") as span:
            world.deliver([event])
            traces[event["data"]["object"]["id"]] = trace.format_trace_id(
                span.get_span_context().trace_id
            )
    await world.log.settle()
    rows = sorted(await world.rows("dirty_object"), key=lambda row: row["generation"])
    assert [row["object_id"] for row in rows] == ["cus_a", "cus_b", "cus_c"]
    for row in rows:
        assert traces[row["object_id"]] in str(row["trace"])
    latest = rows[-1]
    assert (latest["told_at"].timestamp(), latest["made_at"].timestamp()) == (
        1_790_000_003,
        1_700_000_000,
    )


async def test_the_latest_news_count_and_the_earliest_birth(world: World) -> None:
    """A mark without an event is as of now: nothing that just changed is looked up in a list."""
    await _mark(world, made=100, told=500)
    await _mark(world, made=200, told=400)
    (row,) = await world.rows("dirty_object")
    assert (row["made_at"].timestamp(), row["told_at"].timestamp()) == (100, 500)
    async with world.database.tenant(PLATFORM_TENANT_ID, "test") as tx:
        await store_marks.mark(tx, "platform", [("customer", "cus_1")])
    await _mark(world, made=None, told=600)
    (row,) = await world.rows("dirty_object")
    assert row["made_at"].timestamp() == 100
    assert row["told_at"].timestamp() > 1_700_000_000


async def _mark(world: World, *, made: int | None, told: int) -> None:
    async with world.database.transaction(Scope((PLATFORM_TENANT_ID,), "test")) as tx:
        mark = Mark(
            PLATFORM_TENANT_ID,
            "platform",
            "customer",
            "cus_1",
            made_at=None if made is None else from_unix(made),
            told_at=from_unix(told),
        )
        await store_marks.mark_each(tx, [mark])
