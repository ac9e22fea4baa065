"""What is kept aside is let go by staff alone, with a reason, and has one effect."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.ids import new_id
from services.gateway import jobs
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import (
    ACME,
    ACME_CUSTOMER,
    CONNECT,
    CURRENT,
    GLOBEX,
    Gateway,
    about,
    snapshot_event,
)

PATH = "/api/v1/webhook-events"
WHY = "secrets were exchanged"


async def aside(gateway: Gateway, event: Any, **how: Any) -> str:
    """The id of an event that came and is kept aside."""
    sent = await how.pop("sender", gateway).send(event, **how)
    assert sent.json() == {"status": "quarantined"}
    listed = await gateway.get(PATH, "operator", quarantined=True, stripe_event_id=event["id"])
    (item,) = listed.json()["items"]
    found: str = item["id"]
    return found


async def release(gateway: Gateway, event: str, who: str = "operator", **body: Any) -> Any:
    """Try to let an event go."""
    return await gateway.post(f"{PATH}/{event}/release", who, {"why": WHY} | body)


async def published(gateway: Gateway) -> list[tuple[UUID, str, str]]:
    """(tenant, mode, id at Stripe) of all that was published."""
    return [
        (tenant_id, mode, sent["data"]["stripe_event_id"])
        for tenant_id, mode, sent in await gateway.published()
    ]


async def test_what_is_let_go_is_taken_in_once_and_can_be_sent_again(gateway: Gateway) -> None:
    # Given an event of ours that was signed with the secret for connected accounts,
    event = about(customer=ACME_CUSTOMER)
    held = await aside(gateway, event, secret=CONNECT)
    # when staff look what letting it go would do, nothing happens;
    dry = await release(gateway, held, dry_run=True)
    expected = {"outcome": "stored", "tenant_id": str(ACME), "account": "platform", "mode": "test"}
    assert dry.json() == expected | {"dry_run": True}
    assert (await published(gateway), await gateway.told("ConfigurationChanged")) == ([], [])
    assert await gateway.count("webhook_event") == 1
    # when they do,
    assert (await release(gateway, held)).json() == expected | {"dry_run": False}
    # then it is the tenant's, published once, and on record with the reason;
    assert await published(gateway) == [(ACME, "test", event["id"])]
    ((tenant_id, change),) = await gateway.told("ConfigurationChanged")
    assert (tenant_id, change["data"]["action"]) == (ACME, "webhook_event.released")
    assert change["data"]["object_id"] == held
    assert change["data"]["before"]["quarantine_reason"] == "account_missing"
    assert change["data"]["after"]["why"] == WHY
    # what Stripe sends of it later is known,
    assert (await gateway.send(event, secret=CURRENT)).json() == {"status": "duplicate"}
    assert (await release(gateway, held)).json()["code"] == "webhook_event_not_held"
    assert await published(gateway) == [(ACME, "test", event["id"])]
    # it is in nobody's way any more, and is sent again like any other.
    listed = (await gateway.get(PATH, "operator", assignment="unassigned")).json()
    assert listed["items"] == []
    answer = await gateway.post(f"{PATH}/replay", "acme", {})
    await jobs.go_on_with_replays(gateway.database)
    replay = (await gateway.get(f"/api/v1/webhook-replays/{answer.json()['id']}", "acme")).json()
    assert (replay["matched"], replay["replayed"]) == (1, 1)


async def test_what_came_in_otherwise_has_no_second_effect(gateway: Gateway) -> None:
    event = about(customer=ACME_CUSTOMER)
    held = await aside(gateway, event, secret=CONNECT)
    assert (await gateway.send(event)).json() == {"status": "stored"}
    for dry_run in (True, False):
        assert (await release(gateway, held, dry_run=dry_run)).json()["outcome"] == "duplicate"
    assert await published(gateway) == [(ACME, "test", event["id"])]


async def test_two_who_let_the_same_go_at_once_are_one(gateway: Gateway) -> None:
    event = about(customer=ACME_CUSTOMER)
    held = await aside(gateway, event, secret=CONNECT)
    answers = await asyncio.gather(*(release(gateway, held) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert await published(gateway) == [(ACME, "test", event["id"])]


async def test_an_event_of_the_other_mode_is_taken_in_in_its_own(gateway: Gateway) -> None:
    event = about(customer=ACME_CUSTOMER) | {"livemode": True}
    released = await release(gateway, await aside(gateway, event))
    # In live mode the customer is nobody's.
    assert (released.json()["mode"], released.json()["outcome"]) == ("live", "stored")
    assert await published(gateway) == [(PLATFORM_TENANT_ID, "live", event["id"])]


async def test_what_came_to_a_tenants_own_url_stays_the_tenants(gateway: Gateway) -> None:
    own = Own(gateway, GLOBEX, "globex", "acct_globex")
    await own.give_secrets(own.secret)
    await own.tell()
    event = about(customer=ACME_CUSTOMER) | {"livemode": True}
    released = (await release(gateway, await aside(gateway, event, sender=own))).json()
    assert (released["tenant_id"], released["account"]) == (str(GLOBEX), "acct_globex")
    assert await published(gateway) == [(GLOBEX, "live", event["id"])]


async def test_one_whose_account_nobody_has_waits_for_that_alone(gateway: Gateway) -> None:
    event = snapshot_event(account="acct_globex")
    held = await aside(gateway, event, secret=CURRENT)
    assert (await release(gateway, held)).json()["outcome"] == "quarantined"
    assert await published(gateway) == []
    await Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD").tell()
    await jobs.release_quarantined(gateway.database)
    assert await published(gateway) == [(GLOBEX, "test", event["id"])]
    assert (await gateway.send(event, secret=CONNECT)).json() == {"status": "duplicate"}


async def test_who_may_not_and_what_cannot(gateway: Gateway) -> None:
    held = await aside(gateway, about(customer=ACME_CUSTOMER), secret=CONNECT)
    waits = await aside(gateway, snapshot_event(account="acct_stranger"), secret=CONNECT)
    await gateway.send(about(customer=ACME_CUSTOMER))
    (own,) = (await gateway.get(PATH, "acme")).json()["items"]
    assert (await release(gateway, held, "acme")).status_code == 403
    for why in ("", "a" * 501, "a\x00"):
        assert (await release(gateway, held, why=why)).status_code == 422
    for missing in (f"whe_{new_id()}", "whe_x"):
        assert (await release(gateway, missing)).status_code == 404
    for event in (waits, own["id"]):
        refused = await release(gateway, event)
        assert (refused.status_code, refused.json()["code"]) == (409, "webhook_event_not_held")


@pytest.mark.parametrize("secret", [CURRENT, CONNECT])
async def test_nothing_is_let_go_by_itself(gateway: Gateway, secret: bytes) -> None:
    event = snapshot_event(account="acct_globex") if secret == CURRENT else snapshot_event()
    await aside(gateway, event, secret=secret)
    await Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD").tell()
    await jobs.release_quarantined(gateway.database)
    assert await published(gateway) == []
