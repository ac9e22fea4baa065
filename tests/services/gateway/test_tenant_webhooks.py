"""Webhooks of tenants' own accounts: by their own URL, or as connected accounts of the platform."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.directory.local import Directory
from libs.directory.secrets import Secrets
from libs.ids import new_id
from libs.messaging.key_use import KEY_USES
from libs.testing.memory_log import MemoryLog
from services.gateway import jobs, routes_webhooks
from services.gateway.endpoints import EndpointSecret, TenantEndpoint
from services.gateway.handlers import HANDLERS
from services.gateway.settings import Settings
from tests.services.gateway.accounts import Own, own_event
from tests.services.gateway.conftest import (
    ACME,
    CONNECT,
    CURRENT,
    GLOBEX,
    Gateway,
    about,
    snapshot_event,
)
from tests.services.sealed import Plain


@pytest.fixture
async def acme(gateway: Gateway) -> Own:
    """Acme with raw keys."""
    own = Own(gateway, ACME, "acme", "acct_acme")
    await own.give_secrets(own.secret)
    await own.tell()
    return own


@pytest.fixture
async def globex(gateway: Gateway) -> Own:
    """Globex with raw keys."""
    own = Own(gateway, GLOBEX, "globex", "acct_globex")
    await own.give_secrets(own.secret)
    await own.tell()
    return own


async def test_an_event_at_a_tenants_url_is_the_tenants_whatever_it_says(
    gateway: Gateway, acme: Own
) -> None:
    event = own_event()
    assert (await acme.send(event)).json() == {"status": "stored"}
    assert (await acme.send(event, at=3)).json() == {"status": "duplicate"}
    (row,) = await gateway.archived()
    assert (row["tenant_id"], row["account"], row["assignment"]) == (ACME, "acct_acme", "account")
    ((tenant_id, mode, published),) = await gateway.published()
    assert (tenant_id, mode, published["data"]["account"]) == (ACME, "test", "acct_acme")
    used = [key for key, _ in KEY_USES.due(utc_now()) if key.object_id == acme.connection_id]
    assert [(key.tenant_id, key.kind, key.version) for key in used] == [
        (ACME, "stripe_webhook_secret", 1)
    ]


async def test_the_same_event_id_of_two_accounts_is_two_events(
    gateway: Gateway, acme: Own, globex: Own
) -> None:
    event = own_event()
    for answer in (await acme.send(event), await globex.send(event), await gateway.send(event)):
        assert answer.json() == {"status": "stored"}
    assert len(await gateway.published()) == 3


async def test_secrets_and_accounts_of_tenants_cannot_be_mixed(
    gateway: Gateway, acme: Own, globex: Own
) -> None:
    event = own_event()
    strangers = {
        "acme's secret at globex's URL": await globex.send(event, acme.secret),
        "the platform's secret at a tenant's URL": await acme.send(event, CURRENT.decode()),
        "the connect secret at a tenant's URL": await acme.send(event, CONNECT.decode()),
        "a tenant's secret at the platform's URL": await gateway.send(
            event, secret=acme.secret.encode()
        ),
        "a tenant's secret on a connected event at the platform's URL": await gateway.send(
            own_event(account="acct_globex"), secret=acme.secret.encode()
        ),
        "too long ago": await acme.send(event, at=-330),
        "in the future": await acme.send(event, at=330),
    }
    assert {why: answer.status_code for why, answer in strangers.items()} == dict.fromkeys(
        strangers, 400
    )
    assert {answer.json()["code"] for answer in strangers.values()} == {"signature_invalid"}
    named = await acme.send(own_event(account="acct_globex"))
    assert (named.status_code, named.json()["code"]) == (400, "account_mismatch")
    assert await gateway.archived() == []
    assert await gateway.published() == []
    own = await acme.send(own_event(account="acct_acme"))
    assert own.json() == {"status": "stored"}
    wrong_mode = await acme.send(own_event(livemode=True))
    assert wrong_mode.json() == {"status": "quarantined"}
    assert {row["tenant_id"] for row in await gateway.archived()} == {ACME}
    assert len(await gateway.published()) == 1


async def test_a_url_that_is_nobodys_is_answered_like_a_wrong_signature(
    gateway: Gateway, acme: Own, globex: Own
) -> None:
    event = own_event()
    wrong = await acme.send(event, "whsec_wrong")
    await globex.tell(status="REVOKED", webhook_token_hashes=())
    ended = await globex.send(event)
    answers = [ended]
    for token in (new_id().hex * 2, "short", "x" * 500, "a.b~c" * 8, "ü" * 40):
        signed = replace(acme, token=token)
        answers.append(await signed.send(event))
    for answer in answers:
        assert answer.status_code == wrong.status_code == 400
        told = answer.json() | {"instance": None, "request_id": None}
        assert told == wrong.json() | {"instance": None, "request_id": None}
    assert await gateway.archived() == []


class Clock:
    """Time that passes only where somebody waits, or where a look says it took some."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("look_seconds", [0.0, 0.001, 0.049])
async def test_time_does_not_tell_which_urls_there_are(
    gateway: Gateway, acme: Own, monkeypatch: pytest.MonkeyPatch, look_seconds: float
) -> None:
    """A refusal comes at a fixed time after the request, whatever the look for the URL took."""
    clock = Clock()
    monkeypatch.setattr(routes_webhooks, "time", clock)
    monkeypatch.setattr(routes_webhooks, "asyncio", clock)
    find = routes_webhooks.find_endpoint

    async def look(*where: Any) -> TenantEndpoint | None:
        clock.now += look_seconds
        return await find(*where)

    monkeypatch.setattr(routes_webhooks, "find_endpoint", look)
    for own in (acme, replace(acme, token=new_id().hex * 2)):
        began = clock.now
        assert (await own.send(own_event(), "whsec_wrong")).status_code == 400
        assert clock.now - began == pytest.approx(routes_webhooks.REFUSAL_SECONDS)
    assert await gateway.archived() == []


async def test_a_webhook_secret_rolls_under_load_without_a_refusal(
    gateway: Gateway, acme: Own
) -> None:
    stop = asyncio.Event()
    statuses: set[int] = set()
    signing = [acme.secret]
    sent = [0, 0, 0]

    async def load(line: int) -> None:
        while not stop.is_set():
            answer = await acme.send(own_event(), signing[sent[line] % len(signing)])
            statuses.add(answer.status_code)
            sent[line] += 1

    async def nothing_older_is_on_its_way() -> None:
        before = list(sent)
        while any(now == then for now, then in zip(sent, before, strict=True)):
            await asyncio.sleep(0.01)

    running = [asyncio.create_task(load(line)) for line in range(len(sent))]
    for _ in range(2):
        old, fresh = signing[-1], f"whsec_{new_id().hex}"
        acme.version += 1
        await acme.give_secrets(fresh, old)
        # Stripe signs with both while a roll lasts; here each request has one of the two.
        signing[:] = [old, fresh]
        await asyncio.sleep(0.5)
        signing[:] = [fresh]
        await nothing_older_is_on_its_way()
    stop.set()
    await asyncio.gather(*running)
    assert statuses == {200}
    assert await gateway.count("webhook_event") == sum(sent)
    refused = await acme.send(own_event(), acme.secret)
    assert refused.status_code == 400, "the version before the previous one is gone"


async def test_a_previous_secret_ends_at_its_time(gateway: Gateway, acme: Own) -> None:
    old, acme.version, ahead = acme.secret, 2, timedelta()
    gateway.app.state.secrets = Secrets(
        gateway.database, Settings().sealing, now=lambda: utc_now() + ahead
    )
    await acme.give_secrets("whsec_fresh", old, previous_seconds=3600)
    ahead = timedelta(minutes=59)
    assert (await acme.send(own_event(), old)).status_code == 200
    ahead = timedelta(minutes=61)
    assert (await acme.send(own_event(), old)).status_code == 400
    assert (await acme.send(own_event(), "whsec_fresh")).status_code == 200


async def test_nothing_in_memory_matters(gateway: Gateway, acme: Own) -> None:
    event = own_event()
    assert (await acme.send(event)).json() == {"status": "stored"}
    state = gateway.app.state
    state.directory = Directory(gateway.database)
    state.secrets = Secrets(gateway.database, Settings().sealing)
    assert (await acme.send(event)).json() == {"status": "duplicate"}
    assert (await acme.send(own_event())).json() == {"status": "stored"}


async def test_a_connected_accounts_event_is_its_tenants_by_the_account_alone(
    gateway: Gateway,
) -> None:
    own = Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD")
    await own.tell()
    event = about(customer="cus_acme", metadata={"tenant_id": str(ACME)})
    connected = event | {"account": "acct_globex"}
    assert (await gateway.send(connected, secret=CONNECT)).json() == {"status": "stored"}
    ((tenant_id, _, published),) = await gateway.published()
    assert (tenant_id, published["data"]["account"]) == (GLOBEX, "acct_globex")
    for odd in (
        connected | {"id": "evt_1", "livemode": True},
        connected | {"id": "evt_2", "account": "acct_other"},
    ):
        assert (await gateway.send(odd, secret=CONNECT)).json() == {"status": "quarantined"}
    platform = connected | {"id": "evt_3"}
    assert (await gateway.send(platform)).json() == {"status": "quarantined"}
    reasons = [row["quarantine_reason"] for row in await gateway.archived()]
    assert reasons == [None, "livemode_mismatch", "unknown_account", "account_unexpected"]
    assert len(await gateway.published()) == 1
    used = [key for key, _ in KEY_USES.due(utc_now()) if key.object_id == own.connection_id]
    assert [(key.tenant_id, key.version) for key in used] == [(GLOBEX, 0)]


async def test_a_live_connect_endpoint_takes_test_events_for_test_mode(gateway: Gateway) -> None:
    own = Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD")
    await own.tell()
    gateway.app.state.endpoint_secrets = (
        EndpointSecret(CURRENT, "platform", "live"),
        EndpointSecret(CONNECT, "connect", "live"),
    )
    connected = snapshot_event(account="acct_globex")
    assert (await gateway.send(connected, secret=CONNECT)).json() == {"status": "stored"}
    live = snapshot_event(account="acct_globex", livemode=True)
    assert (await gateway.send(live, secret=CONNECT)).json() == {"status": "quarantined"}
    own_test_event = snapshot_event()
    assert (await gateway.send(own_test_event)).json() == {"status": "quarantined"}
    assert [mode for _, mode, _ in await gateway.published()] == ["test"]


async def test_events_that_came_too_early_go_to_the_tenant_when_its_account_appears(
    gateway: Gateway,
) -> None:
    early = [snapshot_event(account="acct_globex") for _ in range(3)]
    stranger = snapshot_event(account="acct_stranger")
    forged = snapshot_event(account="acct_globex")
    for event in (*early, stranger):
        assert (await gateway.send(event, secret=CONNECT)).json() == {"status": "quarantined"}
    assert (await gateway.send(forged)).json() == {"status": "quarantined"}
    await jobs.release_quarantined(gateway.database)
    assert await gateway.published() == []
    own = Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD")
    await own.tell()
    await asyncio.gather(*(jobs.release_quarantined(gateway.database) for _ in range(3)))
    published = [
        (tenant_id, event["data"]["stripe_event_id"])
        for tenant_id, _, event in await gateway.published()
    ]
    assert published == [(GLOBEX, event["id"]) for event in early]
    for event in early:
        assert (await gateway.send(event, secret=CONNECT)).json() == {"status": "duplicate"}
    left = [row for row in await gateway.archived() if row["quarantine_reason"]]
    assert {row["stripe_event_id"] for row in left} == {stranger["id"], forged["id"]}
    assert {row["tenant_id"] for row in left} == {PLATFORM_TENANT_ID}
    given = [row for row in await gateway.archived() if row["tenant_id"] == GLOBEX]
    assert {row["stripe_event_id"] for row in given} == {event["id"] for event in early}
    assert {row["assignment"] for row in given} == {"account"}


async def test_an_account_that_was_given_up_is_nobodys_and_can_be_anothers(
    gateway: Gateway,
) -> None:
    old = Own(gateway, ACME, "acme", "acct_moves", kind="CONNECT_STANDARD")
    await old.tell()
    await old.tell(status="REVOKED")
    fresh = Own(gateway, GLOBEX, "globex", "acct_moves", kind="CONNECT_STANDARD")
    await fresh.tell()
    await old.tell(status="REVOKED")
    event = snapshot_event(account="acct_moves")
    assert (await gateway.send(event, secret=CONNECT)).json() == {"status": "stored"}
    ((tenant_id, _, _),) = await gateway.published()
    assert tenant_id == GLOBEX


async def test_replaying_the_topics_changes_nothing(gateway: Gateway, log: MemoryLog) -> None:
    log.add(gateway.database, HANDLERS, parks=False)
    own = Own(gateway, ACME, "acme", "acct_acme")
    fact = own.vault.secrets([Plain(own.connection_id, 1, own.secret)])
    log.publish(wrap(fact, tenant_id=ACME, mode=None, source="tenants", effective_at=utc_now()))
    await log.settle()

    async def rows() -> list[Any]:
        async with gateway.database.maintenance() as tx:
            sent = await tx.fetchval("select count(*) from outbox")
        async with gateway.database.tenant(ACME, None) as tx:
            held = await tx.fetch("select * from tenant_secrets")
        return [sent, [dict(row) for row in held]]

    before = await rows()
    for clear in (False, True):
        await log.replay(clear_inboxes=clear)
        assert await rows() == before
