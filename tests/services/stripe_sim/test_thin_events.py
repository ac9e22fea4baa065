"""Event destinations: thin events that name the object, fetched and read with the SDK."""

import json
from typing import Any

import pytest
import stripe

from .conftest import Receiver, Sim, new_tenant
from .shapes import complaints
from .test_connect import connected

INCLUDE = ["webhook_endpoint.signing_secret", "webhook_endpoint.url"]


async def thin_endpoint(sim: Sim, receiver: Receiver, key: str, **more: Any) -> Any:
    wish = {
        "name": "thin",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": ["v1.customer.created"],
        "webhook_endpoint": {"url": receiver.url},
        "include": INCLUDE,
        **more,
    }
    made = await sim.client(key).v2.core.event_destinations.create_async(wish)
    receiver.secret = made.webhook_endpoint.signing_secret
    return made


async def test_a_thin_event_names_what_it_is_about_and_is_fetched(
    shared_sim: Sim, receiver: Receiver
) -> None:
    sim = shared_sim
    tenant = await new_tenant(sim)
    made = await thin_endpoint(sim, receiver, tenant.key)
    client = sim.client(tenant.key)
    customer = await tenant.v1.customers.create_async({"email": "x@example.com"})
    await tenant.v1.products.create_async({"name": "unheard"})
    await receiver.until(lambda: bool(receiver.events))
    (thin,) = receiver.events
    assert thin["type"] == "v1.customer.created"
    assert thin["related_object"]["url"] == f"/v1/customers/{customer.id}"
    assert "x@example.com" not in json.dumps(thin)
    assert receiver.refused == []

    body = json.dumps(thin, separators=(",", ":"))
    notice = client.parse_event_notification(body, receiver.headers[0], receiver.secret)
    assert type(notice).__name__ == "V1CustomerCreatedEventNotification"
    event = await client.v2.core.events.retrieve_async(notice.id)
    assert notice.related_object.id == customer.id
    (snapshot,) = (await tenant.v1.events.list_async({"type": "customer.created"})).data
    assert event.snapshot_event == snapshot.id
    assert event.id == thin["id"] != snapshot.id
    shown = {name: value for name, value in event.to_dict().items() if name != "related_object"}
    assert complaints(shown) == []
    with pytest.raises(stripe.StripeError):
        await client.v2.core.events.retrieve_async("evt_test_unknown")
    assert complaints(made.to_dict()) == []


async def test_thin_events_of_connected_accounts_say_whose_they_are(
    hooked: tuple[Sim, Receiver], receiver: Receiver
) -> None:
    sim, _ = hooked
    thin = Receiver()
    await thin.start()
    try:
        wish = {"events_from": ["@accounts"], "enabled_events": ["*"]}
        key = "sk_test_platform_sandbox"
        await thin_endpoint(sim, thin, key, **wish)
        account = await connected(sim)
        v1 = sim.client().v1
        await v1.customers.create_async({"name": "own"})
        made = await v1.customers.create_async({"name": "theirs"}, {"stripe_account": account})
        await thin.until(lambda: "v1.customer.created" in thin.types())
        (found,) = [each for each in thin.events if each["type"] == "v1.customer.created"]
        assert (found["context"], found["related_object"]["id"]) == (account, made.id)
        body = json.dumps(found, separators=(",", ":"))
        header = thin.headers[thin.events.index(found)]
        notice = sim.client().parse_event_notification(body, header, thin.secret)
        context = {"stripe_context": str(notice.context)}
        v2 = sim.client().v2
        assert (await v2.core.events.retrieve_async(notice.id, None, context)).context == account
        with pytest.raises(stripe.StripeError):
            await v2.core.events.retrieve_async(notice.id)
        assert receiver.refused == []
    finally:
        await thin.stop()


async def test_destinations_are_listed_switched_off_and_deleted(
    shared_sim: Sim, receiver: Receiver
) -> None:
    sim = shared_sim
    tenant = await new_tenant(sim)
    made = await thin_endpoint(sim, receiver, tenant.key)
    assert (await tenant.v1.webhook_endpoints.list_async()).data == []
    v2 = sim.client(tenant.key).v2.core.event_destinations
    (listed,) = (await v2.list_async()).data
    assert listed.id == made.id
    assert "signing_secret" not in json.dumps((await v2.retrieve_async(made.id)).to_dict())
    off = await v2.disable_async(made.id)
    assert (off.status, complaints(off.to_dict())) == ("disabled", [])
    await tenant.v1.customers.create_async({})
    assert (await v2.enable_async(made.id)).status == "enabled"
    rolled = await sim.control("POST", f"/webhook_endpoints/{made.id}/roll")
    receiver.secret = rolled.json()["secret"]
    await tenant.v1.customers.create_async({})
    await receiver.until(lambda: bool(receiver.events))
    assert len(receiver.events) == 1
    await v2.delete_async(made.id)
    assert (await v2.list_async()).data == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_payload": "fat"}, "must be one of"),
        ({"webhook_endpoint": {"url": "nowhere"}}, "explicit scheme"),
        ({"events_from": ["@everybody"]}, "Invalid events_from"),
        ({"include": ["everything"]}, "Invalid include"),
        ({"colour": "red"}, "unknown parameter"),
    ],
)
async def test_a_wrong_wish_is_refused(
    shared_sim: Sim, receiver: Receiver, change: dict[str, Any], message: str
) -> None:
    tenant = await new_tenant(shared_sim)
    with pytest.raises(stripe.StripeError, match=message):
        await thin_endpoint(shared_sim, receiver, tenant.key, **change)
