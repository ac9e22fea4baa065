"""The spool has an end: beyond it Stripe is told to come back, and nothing is lost."""

from services.gateway.spool import Spool
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import (
    ACME,
    ACME_CUSTOMER,
    CONNECT,
    GLOBEX,
    URL,
    Gateway,
    about,
    snapshot_event,
)


async def send_all(gateway: Gateway) -> None:
    """Kafka has taken everything."""
    async with gateway.database.maintenance() as tx:
        await tx.execute("update outbox set sent_at = now()")


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


async def test_a_spool_is_full_by_bytes_too(gateway: Gateway) -> None:
    spool = gateway.app.state.spool = Spool(gateway.database, 1000, bytes_max=2000)
    await gateway.send(about(customer=ACME_CUSTOMER))
    await spool.measure()
    assert (await gateway.send(about(customer=ACME_CUSTOMER))).json() == {"status": "stored"}
    await gateway.send(about(customer=ACME_CUSTOMER, description="".join(map(chr, range(33, 900)))))
    await spool.measure()
    answer = await gateway.send(about(customer=ACME_CUSTOMER))
    assert (answer.status_code, answer.json()["code"]) == (503, "spool_full")


async def test_a_tenants_own_url_has_a_share_of_the_spool_and_no_more(gateway: Gateway) -> None:
    # Given two tenants with accounts of their own, and room for two events of each,
    owns = [
        Own(gateway, tenant_id, slug, f"acct_{slug}")
        for tenant_id, slug in ((GLOBEX, "globex"), (ACME, "acme"))
    ]
    for own in owns:
        await own.give_secrets(own.secret)
        await own.tell()
    spool = gateway.app.state.spool = Spool(gateway.database, 20, tenant_percent=10)
    globex, acme = owns
    await send_all(gateway)
    # when one has sent so many,
    for _ in range(2):
        assert (await globex.send(snapshot_event())).json() == {"status": "stored"}
        await spool.measure()
    # then its URL sends Stripe away, and those who do not sign as it hear nothing of that;
    answer = await globex.send(snapshot_event())
    assert (answer.status_code, answer.json()["code"]) == (503, "spool_full")
    stranger = await globex.send(snapshot_event(), secret="whsec_stranger")
    assert (stranger.status_code, stranger.json()["code"]) == (400, "signature_invalid")
    # what comes by another's URL or by the platform's is taken,
    assert (await acme.send(snapshot_event())).json() == {"status": "stored"}
    connected = snapshot_event(account="acct_globex")
    assert (await gateway.send(connected, secret=CONNECT)).json() == {"status": "stored"}
    assert (await gateway.send(snapshot_event())).json() == {"status": "stored"}
    # and so is its own once there is room.
    await send_all(gateway)
    await spool.measure()
    assert (await globex.send(snapshot_event())).json() == {"status": "stored"}
