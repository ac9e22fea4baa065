"""A customer that is erased: the archive keeps the events and forgets the person."""

import json

from libs.contracts.billing import CustomerErased
from libs.contracts.envelope import wrap
from libs.ids import new_id
from libs.testing.memory_log import EPOCH
from services.gateway.erasure import redacted
from services.gateway.handlers import on_customer_erased
from tests.services.gateway.conftest import ACME, ACME_CUSTOMER, GLOBEX, Gateway, about

PERSON = {"customer_email": "ada.canary@people.example", "customer_name": "Ada Canary"}


async def test_only_the_customers_events_forget(gateway: Gateway) -> None:
    await gateway.send(about(id="in_1", customer=ACME_CUSTOMER, amount_due=2900, **PERSON))
    await gateway.send(about(id="in_2", customer="cus_nobody", **PERSON))
    before = await gateway.archived()
    event = wrap(
        CustomerErased(customer_id=new_id(), stripe_customer_ids=(ACME_CUSTOMER,)),
        tenant_id=ACME,
        mode="test",
        source="billing",
        effective_at=EPOCH,
    )
    # Another tenant's word forgets nothing of acme's.
    async with gateway.database.tenant(GLOBEX, "test") as tx:
        await on_customer_erased(event, tx)
    assert await gateway.archived() == before
    for _ in range(2):
        async with gateway.database.tenant(ACME, "test") as tx:
            await on_customer_erased(event, tx)
    mine, other = await gateway.archived()
    assert b"canary" in bytes(other["payload"]).lower()
    assert b"canary" not in bytes(mine["payload"]).lower()
    subject = json.loads(bytes(mine["payload"]))["data"]["object"]
    assert (subject["id"], subject["customer"], subject["amount_due"]) == (
        "in_1",
        ACME_CUSTOMER,
        2900,
    )
    assert mine["payload_bytes"] == len(mine["payload"])
    kept = set(mine.keys()) - {"payload", "payload_bytes"}
    (first, *_) = before
    assert {name: mine[name] for name in kept} == {name: first[name] for name in kept}


async def test_what_stripe_sends_afterwards_comes_without_the_person(gateway: Gateway) -> None:
    event = wrap(
        CustomerErased(customer_id=new_id(), stripe_customer_ids=(ACME_CUSTOMER,)),
        tenant_id=ACME,
        mode="test",
        source="billing",
        effective_at=EPOCH,
    )
    for _ in range(2):
        async with gateway.database.tenant(ACME, "test") as tx:
            await on_customer_erased(event, tx)
    late = about(id="in_late", customer=ACME_CUSTOMER, amount_due=2900, **PERSON)
    assert (await gateway.send(late)).json() == {"status": "stored"}
    assert (await gateway.send(late)).json() == {"status": "duplicate"}
    customer = about(
        id=ACME_CUSTOMER, object="customer", name="Ada Canary", email="ada@canary.example"
    )
    assert (await gateway.send(customer)).json() == {"status": "stored"}
    other = about(id="in_other", customer="cus_other", metadata={"tenant_id": str(ACME)}, **PERSON)
    assert (await gateway.send(other)).json() == {"status": "stored"}
    rows = {row["object_id"]: bytes(row["payload"]).lower() for row in await gateway.archived()}
    assert [b"canary" in rows[name] for name in ("in_late", ACME_CUSTOMER, "in_other")] == [
        False,
        False,
        True,
    ]
    assert json.loads(rows["in_late"])["data"]["object"]["amount_due"] == 2900
    sent = {event["data"]["object_id"]: event["data"] for _, _, event in await gateway.published()}
    assert "canary" not in sent["in_late"]["payload"].lower()
    assert "canary" in sent["in_other"]["payload"].lower()


def test_odd_numbers_and_half_a_surrogate_pair_survive_forgetting() -> None:
    body = b'{"data": {"object": {"email": "ada@canary.example", "x": 1e400, "y": "\\ud800"}}}'
    kept = json.loads(redacted(body))
    assert kept["data"]["object"] == {"email": None, "x": "1e400", "y": "?"}


def test_whatever_the_bytes_nobody_is_left_in_them() -> None:
    assert redacted(b"\xff\xfe ada@people.example") == b"{}"
    deep = b'{"data":' + b"[" * 100_000 + b'"ada@people.example"' + b"]" * 100_000 + b"}"
    assert b"ada@" not in redacted(deep)
    customer = {"object": "customer", "id": "cus_1", "name": "Ada", "metadata": {"name": "Ada"}}
    assert b"Ada" not in redacted(json.dumps({"data": {"object": customer}}).encode())
