"""What a tenant's own URL takes has a bound, which nobody else meets."""

from services.gateway.settings import Settings
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import ACME, CONNECT, GLOBEX, Gateway, snapshot_event

AT_ONCE = 20


async def own_of(gateway: Gateway) -> Own:
    """A tenant's account, whose URL takes one event in a second and twenty at once."""
    settings = Settings(tenant_webhooks_per_second=1)
    gateway.app.state.tenant_rates = settings.tenant_rates()
    own = Own(gateway, GLOBEX, "globex", "acct_globex")
    await own.give_secrets(own.secret)
    await own.tell()
    return own


async def test_a_flood_at_a_tenants_url_is_told_to_come_back(gateway: Gateway) -> None:
    # Given a tenant that signs more than its URL takes,
    own = await own_of(gateway)
    answers = [await own.send(snapshot_event()) for _ in range(AT_ONCE * 3)]
    taken = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    # then the rest is refused for a while, and nothing of it is kept;
    assert len(taken) >= AT_ONCE
    assert refused
    assert len(taken) + len(refused) == len(answers)
    assert {answer.json()["code"] for answer in refused} == {"rate_limited"}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert await gateway.count("webhook_event") == len(taken)
    # while the platform's own and Connect's events, the tenant's among them, and others' are taken.
    connected = snapshot_event(account="acct_globex")
    for event, secret in ((connected, {"secret": CONNECT}), (snapshot_event(), {})):
        assert (await gateway.send(event, **secret)).json() == {"status": "stored"}
    other = Own(gateway, ACME, "acme", "acct_acme")
    await other.give_secrets(other.secret)
    await other.tell()
    assert (await other.send(snapshot_event())).json() == {"status": "stored"}


async def test_a_large_event_counts_as_many(gateway: Gateway) -> None:
    own = await own_of(gateway)
    large = [snapshot_event(extra="x" * 200_000) for _ in range(4)]
    statuses = [(await own.send(event)).status_code for event in large]
    assert statuses[0] == 200
    assert 429 in statuses


async def test_a_stranger_uses_nothing_up(gateway: Gateway) -> None:
    own = await own_of(gateway)
    for _ in range(AT_ONCE * 2):
        refused = await own.send(snapshot_event(), secret="whsec_stranger")
        assert refused.status_code == 400
    assert (await own.send(snapshot_event())).json() == {"status": "stored"}
