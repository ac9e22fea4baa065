"""A customer that is erased: the archive keeps the events and forgets the person."""

import json
from datetime import timedelta
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.contracts.billing import CustomerErased
from libs.contracts.envelope import Envelope, wrap
from libs.ids import new_id
from libs.testing.memory_log import EPOCH
from services.gateway import erasure
from services.gateway.erasure import redacted
from services.gateway.handlers import on_customer_erased
from tests.services.gateway.conftest import ACME, ACME_CUSTOMER, GLOBEX, Gateway, about

PERSON = {"customer_email": "ada.canary@people.example", "customer_name": "Ada Canary"}


async def tell(
    gateway: Gateway, tenant_id: UUID = ACME, *, ago: timedelta = timedelta()
) -> Envelope[CustomerErased]:
    """Billing says now, or said a while ago, that a customer of a tenant is to be forgotten."""
    event = wrap(
        CustomerErased(customer_id=new_id(), stripe_customer_ids=(ACME_CUSTOMER,)),
        tenant_id=tenant_id,
        mode="test",
        source="billing",
        effective_at=EPOCH,
    )
    event = event.model_copy(update={"occurred_at": event.occurred_at - ago})
    await take(gateway, event)
    return event


async def take(gateway: Gateway, event: Envelope[CustomerErased]) -> None:
    """The event arrives."""
    async with gateway.database.tenant(event.tenant_id, "test") as tx:
        await on_customer_erased(event, tx)


async def go_through(gateway: Gateway, pages_max: int = erasure.PAGES_MAX) -> None:
    """A turn of the job, when what was being kept at the time of the erasure is kept."""
    await erasure.run_once(
        gateway.database, utc_now() + 2 * erasure.SETTLED_AFTER, pages_max=pages_max
    )


async def test_only_the_customers_events_forget(gateway: Gateway) -> None:
    await gateway.send(about(id="in_1", customer=ACME_CUSTOMER, amount_due=2900, **PERSON))
    await gateway.send(about(id="in_2", customer="cus_nobody", **PERSON))
    before = await gateway.archived()
    # Another tenant's word forgets nothing of acme's.
    await tell(gateway, GLOBEX)
    await go_through(gateway)
    assert await gateway.archived() == before
    for _ in range(2):
        await tell(gateway)
        await go_through(gateway)
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


async def test_a_large_archive_forgets_page_by_page_wherever_it_is_killed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await gateway.send(about(id=f"in_{number}", customer=ACME_CUSTOMER, **PERSON))
    monkeypatch.setattr(erasure, "PAGE_EVENTS", 2)
    event = await tell(gateway)
    await erasure.run_once(gateway.database, utc_now())
    left = [await naming_ada(gateway)]
    killed, forget = False, redacted

    def killed_once(payload: bytes) -> bytes:
        nonlocal killed
        if not killed and b"in_3" in payload:
            killed = True
            raise KeyboardInterrupt
        return forget(payload)

    monkeypatch.setattr(erasure, "redacted", killed_once)
    for _ in range(4):
        try:
            await go_through(gateway, pages_max=1)
        except KeyboardInterrupt:
            left.append(-1)
        left.append(await naming_ada(gateway))
    assert left == [5, 3, -1, 3, 1, 0], "not before all is kept that was being kept; then in turns"
    # Told again, by a replay: nothing is gone through once more.
    before = await gateway.archived()
    await take(gateway, event)
    monkeypatch.setattr(erasure, "redacted", lambda _: pytest.fail("it was forgotten before"))
    await go_through(gateway)
    assert await gateway.archived() == before


async def test_what_was_being_kept_is_waited_for_however_late_an_erasure_arrives(
    gateway: Gateway,
) -> None:
    await tell(gateway, ago=timedelta(hours=1))
    await erasure.run_once(gateway.database, utc_now())
    await keep_unblanked(gateway)
    await go_through(gateway)
    assert await naming_ada(gateway) == 0


async def test_who_is_erased_once_more_is_looked_for_from_the_start(gateway: Gateway) -> None:
    event = await tell(gateway)
    await go_through(gateway)
    await keep_unblanked(gateway)
    await take(gateway, event)
    await go_through(gateway)
    assert await naming_ada(gateway) == 1, "a replay tells nothing new"
    await tell(gateway)
    await go_through(gateway)
    assert await naming_ada(gateway) == 0


async def keep_unblanked(gateway: Gateway) -> None:
    """What came before the erasure was known is kept only now."""
    body = about(id="in_late", customer=ACME_CUSTOMER, **PERSON)
    await gateway.send(body)
    async with gateway.database.tenant(ACME, "test") as tx:
        await tx.execute("update webhook_event set payload = $1", json.dumps(body).encode())


async def naming_ada(gateway: Gateway) -> int:
    """How many archived events still tell of her."""
    return sum(b"canary" in bytes(row["payload"]).lower() for row in await gateway.archived())


async def test_what_stripe_sends_afterwards_comes_without_the_person(gateway: Gateway) -> None:
    await tell(gateway)
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
