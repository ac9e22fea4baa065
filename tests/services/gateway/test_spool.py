"""The spool has an end: beyond it Stripe is told to come back, and nothing is lost."""

from services.gateway.spool import Spool
from tests.services.gateway.conftest import ACME_CUSTOMER, URL, Gateway, about


async def test_a_full_spool_sends_stripe_away_until_there_is_room(gateway: Gateway) -> None:
    spool = gateway.app.state.spool = Spool(gateway.database, 3)
    events = [about(id=f"in_{number}", customer=ACME_CUSTOMER) for number in range(4)]
    for event in events[:3]:
        await spool.measure()
        assert (await gateway.send(event)).json() == {"status": "stored"}
    await spool.measure()
    for url in (URL, "/api/v1/billing/webhook", f"{URL}/{'x' * 40}"):
        answer = await gateway.send(events[3], url=url)
        assert (answer.status_code, answer.json()["code"]) == (503, "spool_full")
        assert int(answer.headers["retry-after"]) > 0
    assert await gateway.count("webhook_event") == 3
    async with gateway.database.maintenance() as tx:
        await tx.execute(
            "update outbox set sent_at = now() where id = (select min(id) from outbox)"
        )
    await spool.measure()
    assert (await gateway.send(events[3])).json() == {"status": "stored"}
    assert (await gateway.get("/api/v1/webhook-events", "acme")).status_code == 200
