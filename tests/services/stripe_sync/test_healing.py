"""What never reached us is found: events, objects, balance transactions, whole accounts."""

import asyncio
import json
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from libs.clock import utc_now
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    PaymentSucceeded,
    StripeEventFound,
    StripeInvoiceChanged,
    StripeSubscriptionChanged,
)
from libs.directory.local import Directory
from libs.observability.metrics import STRIPE_UNDELIVERED_EVENTS
from libs.testing.databases import clone
from libs.testing.memory_log import MemoryLog
from services.gateway.handlers import HANDLERS as GATEWAY_HANDLERS
from services.ledger.handlers import HANDLERS as LEDGER_HANDLERS
from services.stripe_sync import client, finding, healing, resync, store_marks, store_walks
from services.stripe_sync.healing import Healing
from services.stripe_sync.walk_steps import STEPS, timed_steps
from tests.services.stripe_sync.accounts import Own, own_account
from tests.services.stripe_sync.conftest import Sandbox, World, make_world
from tests.services.stripe_sync.healers import (
    enrol,
    heal,
    make_due,
    patient,
    run,
    take_found,
)
from tests.services.stripe_sync.test_orders import mirror, said

Events = list[dict[str, Any]]


@pytest.fixture
async def bought(world: World) -> Events:
    """The webhooks of one checkout, paid, and none of them delivered yet."""
    await world.plan()
    answer = await world.checkout(world.tenants["acme"])
    world.sandbox.pay(answer.json()["session_id"])
    return world.sandbox.events(world.key)


async def walk(world: World, step: str, account: str = "platform") -> dict[str, Any]:
    """The row of a walk."""
    return next(
        row for row in await world.rows("walk") if (row["step"], row["account"]) == (step, account)
    )


async def due_steps(world: World) -> set[str]:
    """The walks whose turn it is."""
    async with world.database.transaction() as tx:
        return {
            row["step"] for row in await tx.fetch("select step from walk where next_at < now()")
        }


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_webhooks_are_lost_gap_fill_leads_to_the_same_state(
    template: str, world: World, bought: Events, sandbox: Sandbox, seed: int
) -> None:
    chance = random.Random(seed)
    # None lost; then, by the seed, from a few to all of them.
    lost = set(chance.sample(range(len(bought)), k=[1, 3, 6, len(bought) - 1, len(bought)][seed]))
    endings = []
    for dropped in (set[int](), lost):
        log = MemoryLog()
        async with (
            clone(template) as fresh,
            make_world(fresh, log, sandbox) as other,
            fresh.open("ledger") as ledger,
            fresh.open("gateway") as gateway,
        ):
            log.add(ledger, LEDGER_HANDLERS)
            log.add(gateway, GATEWAY_HANDLERS)
            await other.enrol("platform", like=world.tenants["platform"])
            await other.enrol("acme", like=world.tenants["acme"])
            arriving = [event for at, event in enumerate(bought) if at not in dropped]
            chance.shuffle(arriving)
            other.deliver(arriving)
            await other.log.settle()
            await other.work()
            await heal(other, "events", settles=False)
            await other.settle()
            assert len(log.events(StripeEventFound)) == len(dropped)
            assert len(log.events(StripeEventReceived)) == len(bought), "by the gateway's door"
            async with fresh.admin() as admin:
                entries = await admin.fetch(
                    "select tenant_id, book, source_key, content_hash from ledger.journal_entry"
                )
            payments = [
                {name: row[name] for name in row if name not in ("payment_id", "fetched_at")}
                for row in await other.rows("payment")
            ]
            booked = sorted(tuple(map(str, entry)) for entry in entries)
            endings.append((await mirror(other), said(log), payments, booked))
            # Another look finds nothing more.
            await heal(other, "events")
            assert len(log.events(StripeEventFound)) == len(dropped)
    assert endings[0] == endings[1]
    assert endings[0][3], "the ledger has booked"


async def test_an_event_is_found_once_and_only_when_it_should_have_come(
    world: World, bought: Events
) -> None:
    await enrol(world)
    await make_due(world, "events")
    await run(world, found_after_seconds=60.0)
    await world.log.settle()
    assert world.log.events(StripeEventFound) == [], "they may be on their way"
    world.deliver(bought[:3])
    await world.settle()
    await heal(world, "events")
    await heal(world, "events")
    found = world.log.events(StripeEventFound)
    assert [event.data.stripe_event_id for event in found] == [e["id"] for e in bought[3:]]
    first = json.loads(found[0].data.payload)
    assert (first["id"], first["type"]) == (bought[3]["id"], bought[3]["type"])
    before = await world.checksum()
    await take_found(world)
    await heal(world, "events")
    assert len(world.log.events(StripeEventFound)) == len(found)
    assert before["found_event"] == (await world.checksum())["found_event"]


async def test_a_run_that_met_the_rate_limit_is_not_done_and_goes_on_where_it_stopped(
    world: World, bought: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healing, "PAGE_SIZE", 2)
    monkeypatch.setattr(client, "RATE_LIMITED_TRIES", 1)
    await enrol(world)
    await make_due(world, "events")
    before = await walk(world, "events")
    async with world.database.transaction() as tx:
        await tx.execute("update walk set next_at = now() where step = 'events'")
    world.sandbox.fault(kind="error", status=429, path="/v1/events", count=1)
    assert await run(world) == 0
    stopped = await walk(world, "events")
    assert (stopped["done_to"], stopped["attempts"]) == (before["done_to"], 1)
    assert stopped["next_at"] > utc_now()
    world.api._resume_at = 0.0
    await make_due(world, "events")
    taken = finding.take_page
    pages = 0

    async def limited_later(visit: Any, page: Any) -> int:
        nonlocal pages
        pages += 1
        if pages == 3:
            world.sandbox.fault(kind="error", status=429, path="/v1/events", count=1)
        return await taken(visit, page)

    step = STEPS["events"]
    counting = replace(step, take_page=limited_later)
    monkeypatch.setattr(healing, "STEPS", {**STEPS, "events": counting})
    assert await run(world) == 3
    halfway = await walk(world, "events")
    assert halfway["done_to"] is None
    assert halfway["listed"] == 6
    assert halfway["after_id"] == bought[-6]["id"]
    world.api._resume_at = 0.0
    await make_due(world, "events")
    await run(world)
    done = await walk(world, "events")
    assert done["done_to"] == halfway["started_at"]
    assert (done["listed"], done["after_id"]) == (len(bought), None)
    await world.log.settle()
    assert len(world.log.events(StripeEventFound)) == len(bought)


async def test_a_cursor_that_is_too_old_has_the_whole_account_listed(
    world: World, bought: Events
) -> None:
    await enrol(world)
    long_ago = utc_now() - timedelta(days=26)
    async with world.database.transaction() as tx:
        await tx.execute("update walk set done_to = $1 where step = 'events'", long_ago)
    await make_due(world, "events")
    await run(world)
    await world.settle()
    (run_of_all,) = await world.rows("resync")
    assert (run_of_all["requested_by"], run_of_all["state"]) == ("gap_fill", "done")
    assert world.log.events(StripeSubscriptionChanged)[-1].data.status == "active"
    assert len(world.log.events(StripeEventFound)) == len(bought)


async def test_without_a_cursor_only_an_old_account_is_listed(world: World) -> None:
    await heal(world, "events")
    assert await world.rows("resync") == []
    await world.plan()
    await world.subscribe(world.tenants["acme"])
    async with world.database.transaction() as tx:
        await tx.execute("update walk set done_to = null where step = 'events'")
    async with world.test_database.admin() as admin:
        await admin.execute(
            "update stripe_sync.stripe_object set fetched_at = now() - interval '1 day'"
        )
    await heal(world, "events")
    assert len(await world.rows("resync")) == 1


async def test_a_resync_brings_in_everything_and_is_resumable(
    world: World, bought: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healing, "PAGE_SIZE", 1)
    assert bought
    operator = world.tenants["platform"]
    headers = {"authorization": f"Bearer {operator.key}"}
    answer = await world.http.post("/api/v1/stripe/resync", json={}, headers=headers)
    assert answer.status_code == 202, answer.text
    again = await world.http.post("/api/v1/stripe/resync", json={}, headers=headers)
    assert again.json()["id"] == answer.json()["id"], "the run under way is joined"
    path = f"/api/v1/stripe/resync/{answer.json()['id']}"
    monkeypatch.setattr(healing, "RUN_SECONDS_MAX", 0.01)
    for _ in range(200):
        await run(world)
        await world.settle()
        body = (await world.get(operator, path)).json()
        if body["state"] == "done":
            break
    assert body["state"] == "done"
    assert body["listed"] >= 5
    assert world.log.events(StripeSubscriptionChanged)[-1].data.status == "active"
    assert world.log.events(StripeInvoiceChanged)[-1].data.status == "paid"
    assert len(world.log.events(PaymentSucceeded)) == 1
    assert len(world.log.events(BalanceTransactionRecorded)) == 1
    strange = await world.get(world.tenants["acme"], path)
    assert strange.status_code == 404
    refused = await world.http.post(
        "/api/v1/stripe/resync",
        json={},
        headers={"authorization": f"Bearer {world.tenants['acme'].key}"},
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "stripe_not_connected")


async def test_the_nightly_sweep_finds_what_no_event_told(world: World) -> None:
    await world.plan()
    await world.subscribe(world.tenants["acme"])
    subscription = world.log.events(StripeSubscriptionChanged)[-1].data.stripe_subscription_id
    sweeps = ("sweep:subscription", "sweep:test_clock", "sweep:invoice:open")
    await heal(world, *sweeps)
    changed = len(world.log.events(StripeSubscriptionChanged))
    assert [(await walk(world, step))["counted_before"] for step in sweeps] == [0, 0, 0]
    path = f"/v1/subscriptions/{subscription}"
    headers = {"authorization": f"Bearer {world.key}"}
    world.sandbox.client.post(path, data={"cancel_at_period_end": "true"}, headers=headers)
    await heal(world, *sweeps)
    told = world.log.events(StripeSubscriptionChanged)
    assert len(told) == changed + 1
    assert told[-1].data.cancel_at_period_end
    assert (await walk(world, "sweep:test_clock"))["counted_before"] == 1
    world.sandbox.client.delete(path, headers=headers)
    await heal(world, *sweeps)
    assert world.log.events(StripeSubscriptionChanged)[-1].data.status == "canceled"
    assert (await walk(world, "sweep:subscription"))["next_at"] > utc_now()
    assert await world.rows("walked_object") == []


async def test_each_account_heals_for_itself_and_a_revoked_one_is_left_alone(
    world: World,
) -> None:
    well, gone = (
        await own_account(world, "acme"),
        await own_account(world, "globex", "CONNECT_STANDARD"),
    )
    await world.settle()
    await well.create_customer(name="Lost")
    await gone.create_customer(name="Lost too")
    world.sandbox.client.post(f"/_sim/accounts/{gone.account}/disconnect")
    await enrol(world)
    await make_due(world, "events")
    await run(world, gone.account)
    assert (await walk(world, "events", gone.account))["done_to"] is None
    await run(world, well.account)
    await world.log.settle()
    found = world.log.events(StripeEventFound)
    assert {(event.tenant_id, event.data.account) for event in found} == {
        (well.tenant.id, well.account)
    }
    assert "customer.created" in {event.data.event_type for event in found}
    await gone.tell(status="REVOKED")
    await world.watch.run_once()
    async with world.database.maintenance() as tx:
        due = await store_walks.due_accounts(
            tx, utc_now() + timedelta(days=2), ["test"], ["CONNECTED"], [], 10
        )
    assert sorted(due) == sorted([("platform", "test"), (well.account, "test")])


async def test_tenants_balance_transactions_are_looked_for_too(world: World) -> None:
    own = await own_account(world, "acme")
    await world.settle()
    world.sandbox.client.post(
        "/v1/payment_intents",
        data={
            "amount": "5000",
            "currency": "eur",
            "payment_method": "pm_card_visa",
            "confirm": "true",
            "payment_method_types[0]": "card",
        },
        headers={"authorization": f"Bearer {own.key}"},
    )
    await heal(world, "events", account=own.account)
    (moved,) = world.log.events(BalanceTransactionRecorded)
    assert (moved.tenant_id, moved.data.collected_by) == (own.tenant.id, "tenant")
    await heal(world, "sweep:balance_transaction", account=own.account)
    assert len(world.log.events(BalanceTransactionRecorded)) == 1
    # A resync later lists what moved since the account was connected, not since it was asked for.
    first = (await walk(world, "events", own.account))["enrolled_at"]
    async with world.database.tenant(own.tenant.id, "test") as tx:
        await resync.start(tx, own.account, requested_by="test", now=utc_now())
    assert (await walk(world, "whole:balance_transaction", own.account))["enrolled_at"] == first


async def test_a_resync_ends_without_a_list_that_the_key_may_not_read(world: World) -> None:
    operator = world.tenants["platform"]
    headers = {"authorization": f"Bearer {operator.key}"}
    world.sandbox.fault(kind="error", status=403, path="/v1/payouts")
    started = await world.http.post("/api/v1/stripe/resync", json={}, headers=headers)
    assert started.status_code == 202, started.text
    await run(world)
    body = (await world.get(operator, f"/api/v1/stripe/resync/{started.json()['id']}")).json()
    assert body["state"] == "done"
    (refused,) = body["steps"]
    assert (refused["object_type"], refused["done"]) == ("payout", True)
    assert refused["last_error"]
    assert (await walk(world, "whole:payout"))["done_to"] is None, "it was not read"
    world.sandbox.mend()
    again = await world.http.post("/api/v1/stripe/resync", json={}, headers=headers)
    assert again.json()["id"] != body["id"]
    await run(world)
    body = (await world.get(operator, f"/api/v1/stripe/resync/{again.json()['id']}")).json()
    assert (body["state"], body["steps"]) == ("done", [])


async def test_who_joins_a_resync_has_the_lists_read_again_that_were_read(world: World) -> None:
    now = utc_now()
    platform = world.tenants["platform"].id
    async with world.database.tenant(platform, "test") as tx:
        first = await resync.start(tx, "platform", requested_by="test", now=now)
        await tx.execute("update walk set next_at = 'infinity' where step = 'whole:customer'")
        await tx.execute("update walk set after_id = 'in_1' where step = 'whole:invoice'")
    async with world.database.tenant(platform, "test") as tx:
        joined = await resync.start(tx, "platform", requested_by="test", now=now)
    assert joined["resync_id"] == first["resync_id"]
    assert (await walk(world, "whole:customer"))["next_at"] == now
    assert (await walk(world, "whole:invoice"))["after_id"] == "in_1", "it is under way"


async def test_what_was_found_and_not_kept_is_told_again_after_an_hour(
    world: World, bought: Events
) -> None:
    await heal(world, "events")
    await heal(world, "events")
    assert len(world.log.events(StripeEventFound)) == len(bought)
    async with world.test_database.admin() as admin:
        await admin.execute(
            "update stripe_sync.found_event set told_at = now() - interval '61 minutes'"
        )
    await heal(world, "events")
    await heal(world, "events")
    assert len(world.log.events(StripeEventFound)) == 2 * len(bought)


async def test_a_page_that_outlasted_its_lease_changes_nothing_any_more(world: World) -> None:
    await enrol(world)
    await make_due(world, "events")
    now = utc_now()
    async with world.database.transaction() as tx:
        slow = await store_walks.take_up(tx, "platform", "test", now)
        assert slow is not None
        await store_walks.finish(tx, slow, listed=3, counted=0, next_at=now)
    done = await walk(world, "events")
    async with world.database.transaction() as tx:
        await store_walks.finish(tx, slow, listed=3, counted=0, next_at=None)
        await store_walks.go_on(tx, slow, "evt_1", listed=3, counted=0, now=now)
        await store_walks.postpone(tx, slow, now, "late", anew=False)
    assert await walk(world, "events") == done
    assert (done["done_to"], done["listed"]) == (slow.started_at, 3)


async def test_what_is_put_off_holds_no_list_back(world: World) -> None:
    platform = world.tenants["platform"].id
    later = utc_now() + timedelta(hours=1)
    async with world.database.tenant(platform, "test") as tx:
        await store_marks.mark(tx, "platform", [("customer", "cus_1"), ("customer", "cus_2")])
        await tx.execute(
            "update dirty_object set next_try_at = $1 where object_id = 'cus_1'", later
        )
    async with world.database.maintenance() as tx:
        assert await store_walks.dirty_count(tx, "platform", "test", 10) == 1


async def test_an_account_that_moved_is_compared_with_its_new_tenants_mirror_alone(
    world: World,
) -> None:
    before = await own_account(world, "acme")
    await world.settle()
    customer = await before.create_customer(name="Known")
    await heal(world, "events", account=before.account)
    await take_found(world)
    for event in before.events():
        before.deliver(event)
    await world.settle()
    await heal(world, "events", account=before.account)
    assert (await walk(world, "events", before.account))["done_to"] is not None
    async with world.database.maintenance() as tx:
        of = (before.account, "test", "customer", [customer["id"]])
        assert customer["id"] in await store_walks.mirrored(tx, *of)
    await before.tell(account_id=None, status="REVOKED")
    after = Own(
        world, world.tenants["globex"], before.account, before.key, "RAW_KEYS", snapshots=10
    )
    await after.give_keys(before.key)
    await after.tell()
    await world.watch.run_once()
    rows = [row for row in await world.rows("walk") if row["account"] == after.account]
    assert rows == [], "how far it was read is the former tenant's"
    async with world.database.maintenance() as tx:
        assert await store_walks.mirrored(tx, *of) == {}
        assert not await store_walks.has_mirror_before(
            tx, after.account, "test", utc_now() + timedelta(days=1)
        )
    # The same record seen once more, or a change of it, begins nothing anew.
    await enrol(world)
    await after.tell(key_valid=True)
    await world.watch.run_once()
    assert (await walk(world, "events", after.account))["done_to"] is None


async def test_an_odd_list_is_put_off_and_holds_up_no_other(
    world: World, bought: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bought

    async def broken(_visit: Any, _page: Any) -> int:
        raise KeyError("created")

    monkeypatch.setattr(
        healing, "STEPS", {**STEPS, "undelivered": replace(STEPS["events"], take_page=broken)}
    )
    await heal(world, "undelivered", "events", settles=False)
    odd, well = await walk(world, "undelivered"), await walk(world, "events")
    assert odd["last_error"] == "KeyError: 'created'"
    assert odd["next_at"] > utc_now()
    assert well["done_to"] is not None


async def test_what_stripe_could_not_deliver_is_counted_and_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"authorization": f"Bearer {world.key}"}
    hook = {"url": "http://127.0.0.1:9/hook", "enabled_events[0]": "*"}
    answer = world.sandbox.client.post("/v1/webhook_endpoints", data=hook, headers=headers)
    assert answer.status_code == 200, answer.text
    await world.plan()
    started = await world.checkout(world.tenants["acme"])
    world.sandbox.pay(started.json()["session_id"])
    monkeypatch.setattr(finding, "COUNTED_TO", timedelta())
    await heal(world, "undelivered")
    await enrol(world)
    counted = (await walk(world, "undelivered"))["counted_before"]
    assert counted > 3
    assert STRIPE_UNDELIVERED_EVENTS._value.get() == counted
    found = {event.data.event_type for event in world.log.events(StripeEventFound)}
    assert found <= set(finding.UNDELIVERED_TYPES)
    assert "invoice.paid" in found


async def test_many_dirty_objects_hold_the_next_page_back(
    world: World, bought: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bought
    monkeypatch.setattr(healing, "DIRTY_MAX", 1)
    monkeypatch.setattr(healing, "DIRTY_PAUSE", timedelta(hours=1))
    await enrol(world)
    await make_due(world, "sweep:test_clock")
    await run(world)
    await make_due(world, "sweep:subscription")
    await run(world)
    waiting = [row for row in await world.rows("walk") if row["started_at"] is not None]
    assert len(waiting) == 1
    assert len(await world.rows("dirty_object")) == 1


async def test_an_open_object_that_stripe_lists_no_more_is_fetched(world: World) -> None:
    """Off a test clock: the list leaves out what is canceled."""
    own = await own_account(world, "acme")
    await world.settle()
    headers = {"authorization": f"Bearer {own.key}"}
    post = world.sandbox.client.post
    customer = post("/v1/customers", data={"name": "x"}, headers=headers).json()
    created = post(
        "/v1/invoices", data={"customer": customer["id"], "auto_advance": "false"}, headers=headers
    )
    assert created.status_code == 200, created.text
    await heal(world, "sweep:invoice:draft", account=own.account)
    kept = [row for row in await world.rows("stripe_object") if row["object_type"] == "invoice"]
    assert [json.loads(row["raw"])["status"] for row in kept] == ["draft"]
    post(f"/v1/invoices/{created.json()['id']}/finalize", headers=headers)
    await heal(world, "sweep:invoice:draft", account=own.account)
    assert (await walk(world, "sweep:invoice:draft", own.account))["counted_before"] == 1
    await heal(world, "sweep:invoice:draft", account=own.account)
    assert (await walk(world, "sweep:invoice:draft", own.account))["counted_before"] == 0


async def test_where_stripe_failed_to_make_events_the_lists_are_compared_at_once(
    world: World,
) -> None:
    await enrol(world)
    await make_due(world)
    lost = {
        "id": "evt_lost",
        "type": "v2.core.health.event_generation_failure.resolved",
        "api_version": None,
        "created": int(utc_now().timestamp()),
        "data": {"object": {"object": "unknown"}},
    }
    world.deliver([lost])
    await world.log.settle()
    assert await due_steps(world) == set(timed_steps("test"))
    await make_due(world)
    world.deliver([lost])
    await world.log.settle()
    assert await due_steps(world) == set(), "the same event again changes nothing"


async def test_a_slow_account_holds_up_no_other(world: World) -> None:
    slow, well = await own_account(world, "acme"), await own_account(world, "globex")
    await world.settle()
    await slow.create_customer(name="Lost")
    await well.create_customer(name="Lost")
    healing_all = Healing(
        world.database, Directory(world.database), world.identities, patient(world)
    )
    await healing_all.enrol()
    await make_due(world, "events")
    world.sandbox.fault(
        kind="delay", seconds=200, method="GET", path="/v1/events", account=slow.account
    )
    async with healing_all.crew.running():
        await healing_all.run_once()
        assert len(healing_all.crew.busy) == 3
        async with asyncio.timeout(60):
            while len(healing_all.crew.busy) > 1:
                await asyncio.sleep(0.05)
        assert healing_all.crew.busy == [(slow.account, "test")]
        await healing_all.run_once()
        assert healing_all.crew.busy == [(slow.account, "test")]
        await world.log.settle()
        found = {event.data.account for event in world.log.events(StripeEventFound)}
        assert found == {well.account}
    assert healing_all.crew.busy == []


async def test_what_the_mirror_keeps_of_nobody_is_no_difference(world: World) -> None:
    own = await own_account(world, "acme")
    await world.settle()
    headers = {"authorization": f"Bearer {own.key}"}
    form = {"amount": "500", "currency": "eur", "receipt_email": "ada@people.example"}
    opened = world.sandbox.client.post("/v1/payment_intents", data=form, headers=headers)
    assert opened.status_code == 200, opened.text
    counted = []
    for _ in range(2):
        await heal(world, "sweep:payment_intent", account=own.account)
        counted.append((await walk(world, "sweep:payment_intent", own.account))["counted_before"])
    assert counted == [1, 0], "fetched once, and not again every night for the address that it has"
