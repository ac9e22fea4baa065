"""Payments that we begin: once each, into the right account, whatever fails."""

import asyncio
from typing import Any

import pytest

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import NAME_NOT_TOLD, CustomerCreated
from libs.contracts.stripe_sync import PaymentSucceeded, StripeCustomerLinked
from libs.ids import new_id, public_id
from services.stripe_sync import payers
from tests.services.stripe_sync.conftest import World, without_platform
from tests.services.stripe_sync.paying import EUR, KINDS, Shop, open_shop, sealed_name

DECLINED = "pm_card_visa_chargeDeclinedInsufficientFunds"


@pytest.fixture(params=KINDS)
async def shop(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    world: World,
) -> Shop:
    """A tenant's shop on the platform's account, a connected one, and one with keys of its own."""
    monkeypatch.setattr(
        world.app.state,
        "settings",
        world.app.state.settings.model_copy(update={"platform_fallback": "test"}),
    )
    return await open_shop(world, request.param)


async def test_a_payment_is_made_in_the_right_account_and_says_whose_it_is(shop: Shop) -> None:
    world = shop.world
    answer = await shop.pay(
        description="Tea", metadata={"order": "7"}, receipt_email="ada@people.example"
    )
    assert answer.status_code == 201, answer.text
    paid = answer.json()
    assert (paid["status"], paid["amount"], paid["customer_id"]) == (
        "COMPLETED",
        EUR,
        shop.customer,
    )
    assert (paid["stripe_account"], paid["collected_by"]) == (shop.account, shop.collected_by)
    assert paid["receipt_number"]
    (intent,) = shop.listed("payment_intents")
    assert (intent["status"], intent["amount"]) == ("succeeded", 2500)
    assert intent["id"] == paid["stripe_payment_intent_id"]
    told = intent["metadata"]
    assert told["order"] == "7"
    assert told["tenant_id"] == str(shop.tenant.id)
    assert (told["tenant_type"], told["customer_id"]) == ("organization", str(shop.customer_id))
    assert told["payment_id"] in paid["id"]
    assert told["user"].startswith("key_")
    (customer,) = shop.listed("customers") or [shop.at_stripe(f"customers/{intent['customer']}")]
    assert (customer["name"], customer["metadata"]["name"]) == ("Ada Lovelace", "Ada Lovelace")
    assert (customer["test_clock"] is None) == (shop.account != "platform")
    await world.log.settle()
    facts = world.log.events(PaymentSucceeded)
    assert [(f.tenant_id, f.data.account, f.data.amount_minor) for f in facts] == [
        (shop.tenant.id, shop.account, 2500)
    ]
    (linked,) = world.log.events(StripeCustomerLinked)
    assert (linked.data.customer_id, linked.data.account) == (shop.customer_id, shop.account)
    # The webhooks tell nothing new.
    await shop.take_webhooks()
    assert len(world.log.events(PaymentSucceeded)) == 1
    again = await shop.get(f"payments/{paid['id']}")
    assert again["status"] == "COMPLETED"
    assert (await shop.get("payment-intents"))["items"] == [again]
    changes = [e.data.action for e in world.log.events(ConfigurationChanged)]
    assert changes == ["payment.intent_requested"]


async def test_the_secret_is_for_the_caller_alone(
    shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    world = shop.world
    answer = await shop.begin("once-1")
    assert answer.status_code == 201, answer.text
    begun = answer.json()
    assert begun["status"] == "PENDING"
    secret = begun["client_secret"]
    assert secret.startswith(begun["stripe_payment_intent_id"])
    again = await shop.begin("once-1")
    assert (again.status_code, again.json()) == (201, begun)
    assert again.headers["idempotent-replayed"] == "true"
    assert "client_secret" not in await shop.get(f"payment-intents/{begun['id']}")
    await shop.take_webhooks()
    async with world.test_database.admin() as admin:
        tables = await admin.fetch(
            "select tablename from pg_tables where schemaname = 'stripe_sync'"
        )
        for (table,) in tables:
            if table in ("inbox", "parked_record", "dead_letter"):
                continue
            rows = await admin.fetch(f"select to_jsonb(t)::text as row from stripe_sync.{table} t")
            assert not [row for row in rows if secret in row["row"]], table
    assert secret not in "".join(capfd.readouterr())


async def test_twins_make_one_payment(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.pay("order-1") for _ in range(5)))
    assert {answer.status_code for answer in answers} <= {201, 202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    await shop.settle_requests()
    assert len(shop.listed("payment_intents")) == 1
    assert len(shop.listed("charges")) == 1
    settled = await shop.pay("order-1")
    assert (settled.status_code, settled.json()["status"]) == (201, "COMPLETED")
    other = await shop.pay("order-1", description="Other")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


async def test_ten_payments_at_once_make_one_customer(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.pay() for _ in range(10)))
    assert {answer.status_code for answer in answers} == {201}
    intents = shop.listed("payment_intents")
    assert len({intent["customer"] for intent in intents}) == 1
    assert len(intents) == 10


async def test_a_declined_card_fails_the_payment_and_another_pays_it(shop: Shop) -> None:
    answer = await shop.pay(payment_method=DECLINED)
    assert answer.status_code == 402, answer.text
    problem = answer.json()
    assert (problem["code"], problem["failure_code"]) == ("payment_declined", "card_declined")
    failed = await shop.get(f"payments/{problem['payment']}")
    assert failed["status"] == "FAILED"
    assert failed["failure_code"]
    path = f"payment-intents/{problem['payment']}/confirm"
    still = await shop.post(path, {"payment_method": DECLINED})
    assert (still.status_code, still.json()["payment"]) == (402, problem["payment"])
    paid = await shop.post(path, {"payment_method": "pm_card_visa"})
    assert (paid.status_code, paid.json()["status"]) == (200, "COMPLETED"), paid.text
    await shop.take_webhooks()
    assert len(shop.world.log.events(PaymentSucceeded)) == 1
    assert len(shop.listed("payment_intents")) == 1


async def test_a_payer_confirms_on_the_banks_page(shop: Shop) -> None:
    answer = await shop.pay(
        payment_method="pm_card_threeDSecure2Required", return_url="https://acme.example/thanks"
    )
    assert answer.status_code == 201, answer.text
    waiting = answer.json()
    assert waiting["status"] == "REQUIRES_ACTION"
    assert waiting["confirmation_url"].startswith(shop.world.sandbox.url)
    intent_id = waiting["stripe_payment_intent_id"]
    shop.world.sandbox.client.post(
        f"/_sim/payment_intents/{intent_id}/authenticate", json={"passes": True}
    )
    await shop.take_webhooks()
    paid = await shop.get(f"payments/{waiting['id']}")
    assert (paid["status"], paid["confirmation_url"]) == ("COMPLETED", None)


async def test_a_slow_method_stays_processing_until_the_bank_has_paid(shop: Shop) -> None:
    headers = {"authorization": f"Bearer {shop.key}"}
    form = {"type": "sepa_debit", "sepa_debit[iban]": "DE89370400440532013000"}
    method = shop.world.sandbox.client.post("/v1/payment_methods", data=form, headers=headers)
    assert method.status_code == 200, method.text
    answer = await shop.pay(payment_method=method.json()["id"])
    assert (answer.status_code, answer.json()["status"]) == (201, "PROCESSING"), answer.text
    shop.world.sandbox.client.post(
        f"/_sim/payment_intents/{answer.json()['stripe_payment_intent_id']}/settle",
        json={"succeeds": True},
    )
    await shop.take_webhooks()
    assert (await shop.get(f"payments/{answer.json()['id']}"))["status"] == "COMPLETED"


async def test_what_was_authorised_is_captured_in_part_or_given_free(shop: Shop) -> None:
    held = (await shop.pay(capture="manual")).json()
    assert held["status"] == "AUTHORIZED"
    path = f"payment-intents/{held['id']}"
    more = await shop.post(f"{path}/capture", {"amount": {"amount_minor": 2501, "currency": "EUR"}})
    assert more.status_code == 422
    part = await shop.post(f"{path}/capture", {"amount": {"amount_minor": 1000, "currency": "EUR"}})
    assert part.status_code == 200, part.text
    assert (part.json()["status"], part.json()["amount"]["amount_minor"]) == ("COMPLETED", 1000)
    twice = await shop.post(f"{path}/capture")
    assert (twice.status_code, twice.json()["code"]) == (409, "stripe_refused")
    other = (await shop.pay(capture="manual")).json()
    freed = await shop.post(f"payment-intents/{other['id']}/cancel")
    assert (freed.status_code, freed.json()["status"]) == (200, "CANCELED")
    assert (await shop.get(f"payments/{other['id']}"))["status"] == "CANCELED"


@pytest.mark.parametrize("shop", ["RAW_KEYS"], indirect=True)
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "status": 500, "moment": "after", "stored": True},
        {"kind": "error", "status": 500, "moment": "before", "stored": True},
        {"kind": "error", "status": 500, "moment": "after", "stored": False},
        {"kind": "cut"},
        {"kind": "error", "status": 429, "moment": "before", "stored": False},
    ],
    ids=lambda fault: "_".join(str(value) for value in fault.values()),
)
async def test_an_unknown_outcome_is_found_out_and_never_doubled(
    shop: Shop, fault: dict[str, Any]
) -> None:
    world = shop.world
    await shop.pay()
    world.sandbox.fault(**fault, method="POST", path="/v1/payment_intents", count=3)
    answer = await shop.pay("order-1")
    assert answer.status_code in (201, 202), answer.text
    if answer.status_code == 202:
        assert answer.json()["status"] == "UNKNOWN"
    world.sandbox.mend()
    await shop.settle_requests()
    known = await shop.get(f"payments/{answer.json()['id']}")
    assert known["status"] == "COMPLETED"
    assert len(shop.listed("charges")) == 2
    again = await shop.pay("order-1")
    assert (again.status_code, again.json()["id"]) == (201, known["id"])
    assert len(shop.listed("charges")) == 2
    await shop.take_webhooks()
    assert len(world.log.events(PaymentSucceeded)) == 2


@pytest.mark.parametrize("shop", ["PLATFORM"], indirect=True)
async def test_a_webhook_may_be_faster_than_the_answer(shop: Shop) -> None:
    world = shop.world
    await shop.pay()
    for method, moment in (("POST", "after"), ("GET", "before")):
        world.sandbox.fault(
            kind="error", status=500, moment=moment, method=method, path="/v1/payment_intents"
        )
    lost = (await shop.pay("order-1")).json()
    assert lost["status"] == "UNKNOWN"
    world.sandbox.mend()
    await shop.take_webhooks()
    assert (await shop.get(f"payments/{lost['id']}"))["status"] == "COMPLETED"
    await shop.settle_requests()
    assert len(world.log.events(PaymentSucceeded)) == 2
    assert len(await world.rows("payment")) == 2


@pytest.mark.parametrize("shop", ["RAW_KEYS"], indirect=True)
@pytest.mark.parametrize(
    ("was_sent", "ends_as"), [(True, "outcome_unknown"), (False, "never_reached_stripe")]
)
async def test_what_was_not_made_within_a_day_is_never_sent_again(
    shop: Shop,
    was_sent: bool,
    ends_as: str,
) -> None:
    """What was sent may still be on its way when it is looked for: nobody knows."""
    world = shop.world
    await shop.pay()
    world.sandbox.fault(
        kind="error",
        status=500,
        moment="before",
        method="POST",
        path="/v1/payment_intents",
        count=9,
    )
    lost = (await shop.pay()).json()
    assert lost["status"] == "UNKNOWN"
    world.sandbox.mend()
    async with world.test_database.admin() as admin:
        await admin.execute(
            "update stripe_sync.payment_request set created_at = now() - interval '25 hours', "
            "sent = $1 where state = 'open'",
            was_sent,
        )
    await shop.settle_requests()
    known = await shop.get(f"payments/{lost['id']}")
    assert (known["status"], known["failure_code"]) == ("FAILED", ends_as)
    assert len(shop.listed("charges")) == 1


@pytest.mark.parametrize("shop", ["RAW_KEYS", "CONNECT_STANDARD"], indirect=True)
async def test_an_account_that_is_lost_on_the_way_is_a_clear_problem(shop: Shop) -> None:
    assert shop.own is not None
    await shop.pay()
    if shop.own.kind == "RAW_KEYS":
        shop.own.revoke(shop.own.key)
    else:
        shop.world.sandbox.client.post(f"/_sim/accounts/{shop.account}/disconnect")
    answer = await shop.pay()
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "stripe_not_connected"), answer.text
    assert problem["connect_url"] == "/settings/stripe"
    lost = await shop.get(f"payments/{problem['payment']}")
    assert (lost["status"], lost["failure_code"]) == ("FAILED", "stripe_not_connected")


async def test_without_a_connection_the_tenant_is_told_to_connect(world: World) -> None:
    shop = await open_shop(world, "PLATFORM")
    answer = await shop.pay()
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_not_connected")
    assert answer.json()["connect_url"] == "/settings/stripe"
    assert await world.rows("payment") == []
    # What the tenant itself pays goes to the platform all the same.
    own = await shop.pay(customer=None)
    assert (own.status_code, own.json()["stripe_account"]) == (201, "platform"), own.text
    assert own.json()["customer_id"] == public_id("customer", shop.tenant.customer_id)
    world.app.state.identities = without_platform(world.identities)
    none = await shop.pay(customer=None)
    assert (none.status_code, none.json()["code"]) == (409, "stripe_not_configured")


async def test_a_customer_that_is_on_its_way_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await open_shop(world, "RAW_KEYS")
    stranger = await open_shop(world, "RAW_KEYS", "globex")
    for unknown in (public_id("customer", new_id()), "cus_x", stranger.customer):
        assert (await shop.pay(customer=unknown)).status_code == 404
    monkeypatch.setattr(payers, "WAIT_SECONDS", 60)
    shop.customer_id = new_id()
    asking = asyncio.create_task(shop.pay())
    await asyncio.sleep(0.3)
    created = CustomerCreated(customer_id=shop.customer_id, billed_by="tenant")
    await world.publish(created, shop.tenant.id)
    await asyncio.sleep(0.3)
    await world.publish(sealed_name(shop.customer_id, "Late"), shop.tenant.id)
    assert (await asking).status_code == 201
    # Told in the clear, as it was before; the others are named by nobody, and pay all the same.
    monkeypatch.setattr(payers, "WAIT_SECONDS", 0.1)
    for told in ("Former", NAME_NOT_TOLD, None):
        shop.customer_id = new_id()
        created = CustomerCreated(customer_id=shop.customer_id, billed_by="tenant", name=told)
        await world.publish(created, shop.tenant.id)
        assert (await shop.pay()).status_code == 201
    assert [each["name"] for each in shop.listed("customers")] == [
        None,
        None,
        "Former",
        "Late",
    ]
    names = {row["name"] for row in await world.rows("known_customer")}
    assert NAME_NOT_TOLD not in names


@pytest.mark.parametrize(
    "body",
    [
        {"amount": {"amount_minor": 0, "currency": "EUR"}},
        {"amount": {"amount_minor": -5, "currency": "EUR"}},
        {"amount": {"amount_minor": 1.5, "currency": "EUR"}},
        {"amount": {"amount_minor": 10**15, "currency": "EUR"}},
        {"amount": {"amount_minor": 5, "currency": "eur"}},
        {"amount": {"amount_minor": 1001, "currency": "KWD"}},
        {"confirm": True, "payment_method": None},
        {"off_session": True, "confirm": False},
        {"payment_method": "pm/../x"},
        {"capture": "later"},
        {"metadata": {"tenant_id": "x"}},
        {"metadata": {"payment_id": "x"}},
        {"description": "a\x00b"},
        {"receipt_email": "nobody"},
        {"return_url": "javascript:alert(1)"},
        {"application_fee": 1},
    ],
)
async def test_bad_bodies(world: World, body: dict[str, Any]) -> None:
    shop = await open_shop(world, "RAW_KEYS")
    answer = await shop.pay(**body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert shop.listed("payment_intents") == []
