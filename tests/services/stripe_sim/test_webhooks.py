"""Webhooks: signed, retried for ever, and disturbed on demand."""

import signal
from pathlib import Path

import pytest

from deploy.local.ports import scratch_port

from .conftest import Receiver, Sim, start


async def make_customers(sim: Sim, number: int) -> list[str]:
    v1 = sim.client().v1
    return [(await v1.customers.create_async({"name": str(n)})).id for n in range(number)]


def subjects(receiver: Receiver) -> list[str]:
    return [event["data"]["object"]["id"] for event in receiver.events]


async def test_a_webhook_is_retried_and_signed_anew_until_it_is_accepted(
    hooked: tuple[Sim, Receiver],
) -> None:
    sim, receiver = hooked
    receiver.status = 503
    (customer,) = await make_customers(sim, 1)
    await receiver.until(lambda: len(receiver.events) >= 4)
    v1 = sim.client().v1
    (event,) = (await v1.events.list_async({"delivery_success": False})).data
    assert (event.data.object.id, event.pending_webhooks) == (customer, 1)
    receiver.status = 200
    seen = len(receiver.events)
    await receiver.until(lambda: len(receiver.events) > seen)
    for _ in range(100):
        (event,) = (await v1.events.list_async({})).data
        if event.pending_webhooks == 0:
            break
    assert event.pending_webhooks == 0
    assert len(set(receiver.headers)) > 1
    assert receiver.refused == []
    assert (await v1.events.list_async({"delivery_success": False})).data == []


async def test_undelivered_webhooks_survive_kill_9(tmp_path: Path) -> None:
    receiver = Receiver(port=scratch_port())
    sim = start(STRIPE_SIM_WEBHOOK_URL=receiver.url, STRIPE_SIM_STATE=str(tmp_path / "sim.db"))
    try:
        made = await make_customers(sim, 5)
        assert sim.stop(signal.SIGKILL) == -signal.SIGKILL
        await receiver.start()
        sim.start_again()
        await receiver.until(lambda: set(subjects(receiver)) == set(made))
        listed = await sim.client().v1.customers.list_async({})
        assert [customer.id for customer in listed.data] == made[::-1]
        more = await make_customers(sim, 1)
        assert not set(more) & set(made)
    finally:
        assert sim.stop() == 0
        await receiver.stop()


async def test_an_idempotent_answer_survives_kill_9(tmp_path: Path) -> None:
    sim = start(STRIPE_SIM_STATE=str(tmp_path / "sim.db"))
    try:
        first = await sim.client().v1.customers.create_async({}, {"idempotency_key": "k"})
        sim.stop(signal.SIGKILL)
        sim.start_again()
        again = await sim.client().v1.customers.create_async({}, {"idempotency_key": "k"})
        assert again.id == first.id
    finally:
        sim.stop()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("webhook_drop", 8), ("webhook_duplicate", 12), ("webhook_reorder", 10)],
)
async def test_faults_of_delivery(hooked: tuple[Sim, Receiver], fault: str, expected: int) -> None:
    sim, receiver = hooked
    wish = {"kind": fault, "count": 2, "seconds": 0.6}
    assert (await sim.control("POST", "/faults", wish)).status_code == 201
    made = await make_customers(sim, 10)
    await receiver.until(lambda: len(receiver.events) == expected)
    assert set(subjects(receiver)) <= set(made)
    assert (await sim.control("GET", "/faults")).json() == {"items": []}
    if fault == "webhook_drop":
        lost = (await sim.client().v1.events.list_async({"delivery_success": False})).data
        assert len(lost) == 2
        answer = await sim.control("POST", f"/events/{lost[0].id}/resend")
        assert answer.json()["sent"][0]["status"] == 200
        assert lost[0].id in [event["id"] for event in receiver.events]


async def test_api_faults_by_probability_and_reset(hooked: tuple[Sim, Receiver]) -> None:
    sim, _receiver = hooked
    wish = {"kind": "error", "status": 429, "probability": 1.0, "path": "/v1/customers"}
    await sim.control("POST", "/faults", wish)
    with pytest.raises(Exception, match="rate limit"):
        await sim.client().v1.customers.create_async({})
    assert (await sim.control("DELETE", "/faults")).json() == {"cleared": 1}
    await make_customers(sim, 1)
    assert (await sim.control("POST", "/reset")).json() == {"reset": True}
    assert (await sim.client().v1.customers.list_async({})).data == []
    bad = await sim.control("POST", "/faults", {"kind": "earthquake"})
    assert (bad.status_code, "kind must be" in bad.json()["error"]) == (400, True)


async def test_an_endpoint_registered_over_the_api(hooked: tuple[Sim, Receiver]) -> None:
    sim, _platform = hooked
    answer = await sim.control("POST", "/accounts", {"name": "Own keys"})
    v1 = sim.client(answer.json()["secret_key"]).v1
    own = Receiver()
    await own.start()
    try:
        endpoint = await v1.webhook_endpoints.create_async(
            {"url": own.url, "enabled_events": ["customer.created"]}
        )
        own.secret = endpoint.secret
        shown = await v1.webhook_endpoints.retrieve_async(endpoint.id)
        assert "secret" not in shown.to_dict()
        customer = await v1.customers.create_async({})
        await v1.products.create_async({"name": "unheard"})
        await own.until(lambda: bool(own.events))
        assert subjects(own) == [customer.id]
        assert own.refused == []
    finally:
        await own.stop()
