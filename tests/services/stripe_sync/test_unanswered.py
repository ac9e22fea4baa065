"""Requests whose answer nobody saw: kept until it is known, under their key, and never done twice."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from libs.clock import utc_now
from libs.contracts.billing import CustomerErased
from libs.contracts.stripe_sync import OutsidePaymentRecorded
from libs.observability.metrics import PAYMENT_REQUESTS_OLDEST_AGE_SECONDS
from services.stripe_sync import (
    identities,
    janitor,
    lookups,
    outcomes,
    requests,
    store_keys,
    store_requests,
)
from services.stripe_sync.janitor import RequestWorker
from services.stripe_sync.outcomes import Outcome
from services.stripe_sync.store_requests import OUTCOME_UNKNOWN
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.paying import EUR, Shop, open_shop


@pytest.fixture(autouse=True)
def _refused_keys_are_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "RENEWAL_SECONDS", 0.1)
    monkeypatch.setattr(identities, "PAUSE_SECONDS_MIN", 0.1)


@pytest.fixture
async def shop(world: World) -> Shop:
    """A shop with an account and keys of its own, and the customer entered at Stripe."""
    return await a_shop(world, "RAW_KEYS")


async def a_shop(world: World, kind: str) -> Shop:
    shop = await open_shop(world, kind)
    assert (await shop.pay()).status_code == 201
    return shop


async def burnt(shop: Shop) -> int:
    return len(await shop.world.rows("burnt_key"))


async def open_requests(shop: Shop) -> list[dict[str, Any]]:
    async with shop.world.database.tenant(shop.tenant.id, "test") as tx:
        rows = await tx.fetch("select * from payment_request where state = 'open'")
    return [dict(row) for row in rows]


async def age(shop: Shop) -> None:
    async with shop.world.test_database.admin() as admin:
        await admin.execute(
            "update stripe_sync.payment_request set created_at = now() - interval '25 hours', "
            "next_try_at = now() where state = 'open'"
        )


async def let_worker_look(shop: Shop) -> RequestWorker:
    """One pass of the worker over everything that is open."""
    world = shop.world
    worker = RequestWorker(world.database, world.app.state.directory, world.identities)
    async with world.test_database.admin() as admin:
        await admin.execute("update stripe_sync.payment_request set next_try_at = now()")
    for each in await worker.due():
        await worker.settle(each)
    return worker


@pytest.mark.parametrize(("status", "burns"), [(500, 1), (502, 0), (503, 0)])
async def test_only_an_answer_that_stripe_keeps_burns_the_key(
    shop: Shop, status: int, burns: int
) -> None:
    fault = {"kind": "error", "method": "POST", "path": "/v1/payment_intents"}
    shop.world.sandbox.fault(**fault, status=status, moment="before", count=9, stored=status == 500)
    lost = await shop.pay("order-1")
    assert (lost.status_code, lost.json()["status"]) == (202, "UNKNOWN")
    assert await burnt(shop) == burns
    shop.world.sandbox.mend()
    await shop.settle_requests()
    assert (await shop.get(f"payments/{lost.json()['id']}"))["status"] == "COMPLETED"
    assert len(shop.listed("charges")) == 2


async def test_under_another_key_it_is_sent_only_seconds_later(shop: Shop) -> None:
    shop.world.sandbox.fault(
        kind="error", method="POST", path="/v1/payment_intents", moment="before", count=1
    )
    lost = await shop.pay("order-1")
    assert lost.status_code == 202, lost.text
    assert len(shop.listed("charges")) == 1
    (waiting,) = await open_requests(shop)
    assert waiting["next_try_at"] - waiting["created_at"] >= requests.RESEND_PAUSE


def lose(shop: Shop, path: str) -> None:
    """POSTs have their effect, their answers are lost, and nobody may look."""
    sandbox = shop.world.sandbox
    sandbox.fault(kind="error", status=503, stored=False, method="POST", path=path, moment="after")
    sandbox.fault(kind="error", status=403, stored=False, method="GET", path=path)


@pytest.mark.parametrize("status", [401, 403, 400])
async def test_what_was_sent_is_not_refused_because_nobody_may_look(
    shop: Shop, status: int
) -> None:
    sandbox = shop.world.sandbox
    fault = {"kind": "error", "stored": False, "path": "/v1/payment_intents"}
    sandbox.fault(**fault, status=503, method="POST", moment="after")
    sandbox.fault(**fault, status=status, method="GET")
    lost = await shop.pay("order-1")
    assert (lost.status_code, lost.json()["status"]) == (202, "UNKNOWN"), lost.text
    (waiting,) = await open_requests(shop)
    assert waiting["sent"]
    sandbox.mend()
    await shop.settle_requests()
    assert (await shop.get(f"payments/{lost.json()['id']}"))["status"] == "COMPLETED"
    assert len(shop.listed("charges")) == 2


async def test_a_refund_that_was_sent_is_not_refused_either(shop: Shop) -> None:
    payment = (await shop.get("payments"))["items"][0]["id"]
    lose(shop, "/v1/refunds")
    lost = await shop.post("refunds", {"payment": payment}, once="r-1")
    assert (lost.status_code, lost.json()["status"]) == (202, "unknown"), lost.text
    anew = await shop.post("refunds", {"payment": payment})
    assert (anew.status_code, anew.json()["code"]) == (409, "payment_not_refundable")
    shop.world.sandbox.mend()
    await shop.settle_requests()
    assert (await shop.get(f"refunds/{lost.json()['id']}"))["status"] == "succeeded"
    assert len(shop.listed("refunds")) == 1


class KilledError(Exception):
    """In place of SIGKILL: nothing after it is done."""


async def killed(*_: Any) -> None:
    raise KilledError


async def test_a_worker_that_died_after_the_call_leaves_it_open(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(outcomes.Outcome, "done", killed)
        assert (await shop.pay("order-1")).status_code == 500
    fault = {"kind": "error", "status": 401, "stored": False}
    shop.world.sandbox.fault(**fault, method="GET", path="/v1/payment_intents")
    await let_worker_look(shop)
    (waiting,) = await open_requests(shop)
    assert waiting["attempts"] == 1
    shop.world.sandbox.mend()
    await shop.settle_requests()
    assert {row["status"] for row in await shop.world.rows("payment")} == {"COMPLETED"}
    assert len(shop.listed("charges")) == 2


async def test_who_asks_again_after_a_kill_pays_once_though_the_key_was_not_kept(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call had its effect and was answered with an error, and nobody lived to note the key as burnt."""

    fault = {"kind": "error", "method": "POST", "path": "/v1/payment_intents", "moment": "after"}
    shop.world.sandbox.fault(**fault, stored=False, count=1)
    with monkeypatch.context() as dying:
        dying.setattr(store_keys, "burn", killed)
        assert (await shop.pay("order-1")).status_code == 500
    assert await burnt(shop) == 0
    again = await shop.pay("order-1")
    assert (again.status_code, again.json()["status"]) == (201, "COMPLETED"), again.text
    assert len(shop.listed("charges")) == 2
    assert len(await shop.world.rows("payment")) == 2


async def test_another_try_with_an_old_row_knows_that_it_was_sent(shop: Shop) -> None:
    """The first call is in flight while the second one, entered beside it, is refused the key."""
    world = shop.world
    lose(shop, "/v1/payment_intents")
    assert (await shop.pay("order-1")).status_code == 202
    world.sandbox.mend()
    (waiting,) = await open_requests(shop)
    world.sandbox.fault(kind="error", status=401, stored=False, path="/v1/payment_intents")
    identity = await world.identities.of(shop.account, "test")
    assert identity is not None
    old = waiting | {"sent": False, "attempts": 0}
    row: Any = old
    errand = requests.Errand(world.database, identity.api, row, waiting["created_at"])
    with pytest.raises(requests.UnseenError):
        await errand.run()
    world.sandbox.mend()
    await shop.settle_requests()
    assert {row["status"] for row in await world.rows("payment")} == {"COMPLETED"}
    assert len(shop.listed("charges")) == 2


@pytest.mark.parametrize("kind", ["RAW_KEYS", "CONNECT_STANDARD"])
async def test_a_step_of_a_lost_account_is_not_carried_out_later(world: World, kind: str) -> None:
    shop = await a_shop(world, kind)
    held = (await shop.pay(capture="manual")).json()["id"]
    assert shop.own is not None
    await shop.own.tell(status="REVOKED")
    world.app.state.directory._cache.clear()
    for step in ("capture", "cancel", "confirm"):
        answer = await shop.post(f"payment-intents/{held}/{step}")
        assert (answer.status_code, answer.json()["code"]) == (409, "stripe_not_connected")
    assert await open_requests(shop) == []
    await shop.own.tell()
    world.app.state.directory._cache.clear()
    await let_worker_look(shop)
    assert (await shop.get(f"payments/{held}"))["status"] == "AUTHORIZED"


async def told(shop: Shop) -> list[OutsidePaymentRecorded]:
    await shop.world.log.settle()
    return [each.data for each in shop.world.log.events(OutsidePaymentRecorded)]


async def record(shop: Shop, **more: Any) -> httpx.Response:
    wish = {"customer": shop.customer, "amount": EUR, "reference": "transfer 4711"}
    return await shop.post("payments", wish | more)


async def test_money_of_an_erased_customer_is_told_of_once(shop: Shop) -> None:
    known = await record(shop)
    assert known.json()["description"] == "transfer 4711"
    await shop.world.publish(CustomerErased(customer_id=shop.customer_id), shop.tenant.id)
    again = await record(shop)
    assert (again.status_code, again.json()["id"]) == (201, known.json()["id"]), again.text
    assert again.json()["description"] is None
    later = await record(shop, reference="transfer 4712")
    assert later.status_code == 201, later.text
    assert [fact.reference for fact in await told(shop)] == ["transfer 4711", "transfer 4712"]


async def test_of_a_part_the_platform_takes_its_share_of_that_part(world: World) -> None:
    shop = await a_shop(world, "CONNECT_STANDARD")
    assert shop.own is not None
    plain = (await shop.pay(capture="manual")).json()["id"]
    await shop.own.tell(application_fee_basis_points=1000)
    world.app.state.directory._cache.clear()
    held = (await shop.pay(capture="manual")).json()["id"]
    part = {"amount": {"amount_minor": 1000, "currency": "EUR"}}
    for payment in (held, plain):
        answer = await shop.post(f"payment-intents/{payment}/capture", part)
        assert (answer.status_code, answer.json()["amount"]["amount_minor"]) == (200, 1000)
    fees = [fee["amount"] for fee in world.sandbox.get("/v1/application_fees", world.key)["data"]]
    assert fees == [100]


async def test_what_nobody_can_ask_about_for_a_day_ends_as_unknown(shop: Shop) -> None:
    world = shop.world
    paid = (await shop.get("payments"))["items"][0]["id"]
    lose(shop, "/v1/payment_intents")
    lose(shop, "/v1/refunds")
    lost = (await shop.pay("order-1")).json()
    refund = (await shop.post("refunds", {"payment": paid})).json()
    assert (lost["status"], refund["status"]) == ("UNKNOWN", "unknown")
    world.sandbox.mend()
    assert shop.own is not None
    await shop.own.tell(status="REVOKED")
    world.app.state.directory._cache.clear()
    await let_worker_look(shop)
    assert len(await open_requests(shop)) == 2
    await age(shop)
    worker = await let_worker_look(shop)
    await worker.due()
    assert PAYMENT_REQUESTS_OLDEST_AGE_SECONDS._value.get() == 0
    rows = await world.rows("payment_request")
    ended = [row for row in rows if row["refusal"] == OUTCOME_UNKNOWN]
    assert [(row["state"], row["request"]) for row in ended] == [("refused", "{}")] * 2
    failed = await shop.get(f"payments/{lost['id']}")
    assert (failed["status"], failed["failure_code"]) == ("FAILED", OUTCOME_UNKNOWN)
    # It may have been given back, so it counts.
    assert (await shop.get(f"refunds/{refund['id']}"))["status"] == "unknown"
    await shop.own.tell()
    world.app.state.directory._cache.clear()
    again = await shop.pay("order-1")
    assert (again.status_code, again.json()["stripe_code"]) == (409, OUTCOME_UNKNOWN), again.text
    await shop.take_webhooks()
    assert (await shop.get(f"payments/{lost['id']}"))["status"] == "COMPLETED"
    assert (await shop.get(f"refunds/{refund['id']}"))["status"] == "succeeded"


@pytest.mark.parametrize(
    ("moment", "ends_as", "anew"), [("before", "failed", 201), ("after", "succeeded", 409)]
)
async def test_a_lost_refund_is_proved_once_stripe_can_be_asked(
    shop: Shop, moment: str, ends_as: str, anew: int
) -> None:
    """Its money is free again where it is not at Stripe, and only there."""
    payment = (await shop.get("payments"))["items"][0]["id"]
    fault = {"kind": "error", "stored": False, "path": "/v1/refunds"}
    shop.world.sandbox.fault(**fault, status=503, method="POST", moment=moment)
    shop.world.sandbox.fault(**fault, status=403, method="GET")
    lost = (await shop.post("refunds", {"payment": payment})).json()
    await age(shop)
    for _ in range(2):
        await let_worker_look(shop)
        assert await open_requests(shop) == []
        assert (await shop.get(f"refunds/{lost['id']}"))["status"] == "unknown"
    assert (await shop.post("refunds", {"payment": payment})).status_code == 409
    shop.world.sandbox.mend()
    for _ in range(2):
        await let_worker_look(shop)
        assert (await shop.get(f"refunds/{lost['id']}"))["status"] == ends_as
    assert (await shop.post("refunds", {"payment": payment})).status_code == anew
    assert len(shop.listed("refunds")) == 1


async def test_an_odd_lost_refund_holds_up_no_other_request(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = (await shop.get("payments"))["items"][0]["id"]
    lose(shop, "/v1/refunds")
    refund = (await shop.post("refunds", {"payment": payment})).json()["id"]
    await age(shop)
    await let_worker_look(shop)
    shop.world.sandbox.mend()

    async def odd(*_: Any) -> None:
        raise KeyError("id")

    with monkeypatch.context() as context:
        context.setattr(janitor, "find_refund", odd)
        await let_worker_look(shop)
    assert (await shop.get(f"refunds/{refund}"))["status"] == "unknown"
    await let_worker_look(shop)
    assert (await shop.get(f"refunds/{refund}"))["status"] == "succeeded"


async def test_an_account_that_lets_nobody_look_for_a_day_ends_it_too(shop: Shop) -> None:
    lose(shop, "/v1/payment_intents")
    lost = (await shop.pay("order-1")).json()
    await age(shop)
    await let_worker_look(shop)
    assert await open_requests(shop) == []
    assert (await shop.get(f"payments/{lost['id']}"))["failure_code"] == OUTCOME_UNKNOWN


async def test_stripe_may_leave_out_metadata_and_the_status_of_a_refund(shop: Shop) -> None:
    wanted = UUID(int=7)
    mine = {"metadata": {"refund_id": str(wanted)}}
    assert lookups.named([{"metadata": None}, {}, mine], "refund_id", wanted) is mine
    payment = (await shop.get("payments"))["items"][0]["id"]
    lose(shop, "/v1/refunds")
    refund = (await shop.post("refunds", {"payment": payment})).json()["id"]
    (waiting,) = await open_requests(shop)
    row: Any = waiting
    outcome = Outcome(shop.world.database, row, waiting["created_at"])
    await outcome.done({"id": "re_x", "status": None})
    assert (await shop.get(f"refunds/{refund}"))["status"] == "pending"
    async with shop.world.database.tenant(shop.tenant.id, "test") as tx:
        assert await store_requests.note_sent(tx, waiting["request_id"]) is None


async def test_what_a_killed_worker_had_in_hand_is_free_after_a_while(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(shop, "/v1/payment_intents")
    lost = (await shop.pay("order-1")).json()
    shop.world.sandbox.mend()
    another = await after_a_killed_worker(shop, monkeypatch)
    assert await another.due() == []
    free_at = utc_now() + janitor.TAKEN_FOR
    monkeypatch.setattr(janitor, "utc_now", lambda: free_at)
    for each in await another.due():
        await another.settle(each)
    assert (await shop.get(f"payments/{lost['id']}"))["status"] == "COMPLETED"


async def after_a_killed_worker(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> RequestWorker:
    """A worker, after one that was killed with everything that is open in hand."""

    async def die(*_: object) -> None:
        raise SystemError

    with monkeypatch.context() as context:
        context.setattr(RequestWorker, "_list", die)
        with pytest.raises(SystemError):
            await let_worker_look(shop)
    return RequestWorker(shop.world.database, shop.world.app.state.directory, shop.world.identities)
