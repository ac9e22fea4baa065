"""Events that belong to nobody: staff give them to a tenant, once, and it is on record."""

from typing import Any
from uuid import UUID

import pytest

from libs.contracts.billing import CustomerErased
from libs.contracts.envelope import wrap
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.ids import new_id
from libs.testing.memory_log import EPOCH
from services.gateway import jobs
from services.gateway.handlers import on_customer_erased
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import (
    ACME,
    ACME_CUSTOMER,
    CONNECT,
    GLOBEX,
    Gateway,
    about,
    snapshot_event,
)

PATH = "/api/v1/webhook-events"


async def unassigned(gateway: Gateway, **subject: Any) -> str:
    """The id of an event that nobody's customer caused."""
    await gateway.send(about(customer="cus_nobody", **subject))
    (item,) = (await gateway.get(PATH, "operator", assignment="unassigned")).json()["items"]
    found: str = item["id"]
    return found


async def assign(gateway: Gateway, event: str, who: str, tenant: str) -> Any:
    """Try to give an event to a tenant."""
    return await gateway.post(f"{PATH}/{event}/assign", who, {"tenant_id": tenant})


@pytest.mark.parametrize("tenant", [str(GLOBEX), "globex"])
async def test_an_assigned_event_is_the_tenants_from_then_on(gateway: Gateway, tenant: str) -> None:
    event = await unassigned(gateway)
    for _ in range(2):
        answer = await assign(gateway, event, "operator", tenant)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["tenant_id"], answer.json()["assignment"]) == (
            str(GLOBEX),
            "operator",
        )
    listed = (await gateway.get(PATH, "operator", assignment="unassigned")).json()
    assert listed["items"] == []
    assert (await gateway.get(f"{PATH}/{event}", "globex")).status_code == 200
    published = [
        (tenant_id, sent["data"]["replay_id"]) for tenant_id, _, sent in await gateway.published()
    ]
    assert published == [(PLATFORM_TENANT_ID, None), (GLOBEX, None)]
    ((tenant_id, change),) = await gateway.told("ConfigurationChanged")
    assert (tenant_id, change["data"]["action"]) == (GLOBEX, "webhook_event.assigned")
    assert change["data"]["object_id"] == event
    assert change["data"]["before"] == {"tenant_id": str(PLATFORM_TENANT_ID)}
    other = await assign(gateway, event, "operator", "acme")
    assert (other.status_code, other.json()["code"]) == (409, "webhook_event_assigned")


async def test_who_may_not_and_what_cannot(gateway: Gateway) -> None:
    event = await unassigned(gateway)
    assert (await assign(gateway, event, "acme", str(ACME))).status_code == 403
    assert (await assign(gateway, event, "operator", str(new_id()))).status_code == 404
    assert (await assign(gateway, event, "operator", "")).status_code == 404
    assert (await assign(gateway, f"whe_{new_id()}", "operator", "acme")).status_code == 404
    assert (await assign(gateway, "whe_x", "operator", "acme")).status_code == 404
    body = {"tenant_id": "acme", "mode": "live"}
    assert (await gateway.post(f"{PATH}/{event}/assign", "operator", body)).status_code == 422
    assert (await gateway.get(PATH, "acme")).json()["items"] == []


async def test_what_is_a_tenants_or_in_quarantine_is_not_given_away(gateway: Gateway) -> None:
    await gateway.send(about(customer=ACME_CUSTOMER))
    await gateway.send(snapshot_event(), secret=CONNECT)
    quarantined, own = (await gateway.get(PATH, "operator")).json()["items"]
    refused = await assign(gateway, own["id"], "operator", "globex")
    assert (refused.status_code, refused.json()["code"]) == (409, "webhook_event_assigned")
    aside = await assign(gateway, quarantined["id"], "operator", "globex")
    assert (aside.status_code, aside.json()["code"]) == (409, "webhook_event_quarantined")


async def test_what_an_account_sends_that_its_tenant_left_is_given_and_sent_again(
    gateway: Gateway,
) -> None:
    # Given a tenant whose connection is over, and an event of its account that came after,
    own = Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD")
    await own.tell()
    await own.tell(status="REVOKED")
    sent = snapshot_event(account="acct_globex")
    assert (await gateway.send(sent, secret=CONNECT)).json() == {"status": "quarantined"}
    await jobs.release_quarantined(gateway.database)
    (item,) = (await gateway.get(PATH, "operator", assignment="unassigned")).json()["items"]
    assert (item["tenant_id"], item["quarantine_reason"]) == (
        str(PLATFORM_TENANT_ID),
        "unknown_account",
    )
    assert await gateway.published() == []
    # when staff give it to the tenant,
    given = await assign(gateway, item["id"], "operator", "globex")
    assert (given.status_code, given.json()["quarantine_reason"]) == (200, None)
    # then it is published there once, which is on record; its id is taken;
    assert await told_to(gateway) == [(GLOBEX, "acct_globex", None)]
    ((tenant_id, change),) = await gateway.told("ConfigurationChanged")
    assert (tenant_id, change["data"]["action"]) == (GLOBEX, "webhook_event.assigned")
    assert (await gateway.send(sent, secret=CONNECT)).json() == {"status": "duplicate"}
    # and it is sent again like any other.
    answer = await gateway.post(f"{PATH}/replay", "operator", {"ids": [item["id"]]})
    await jobs.go_on_with_replays(gateway.database)
    replay = (
        await gateway.get(f"/api/v1/webhook-replays/{answer.json()['id']}", "operator")
    ).json()
    assert (replay["matched"], replay["replayed"]) == (1, 1)
    assert (await told_to(gateway))[1:] == [(GLOBEX, "acct_globex", replay["id"])]


async def told_to(gateway: Gateway) -> list[tuple[UUID, str, str | None]]:
    """(tenant, account, replay) of every event that was published."""
    return [
        (tenant_id, sent["data"]["account"], sent["data"]["replay_id"])
        for tenant_id, _, sent in await gateway.published()
    ]


async def test_a_person_whom_the_tenant_erased_does_not_come_with_it(gateway: Gateway) -> None:
    event = await unassigned(gateway, customer_email="ada.canary@people.example")
    erased = wrap(
        CustomerErased(customer_id=new_id(), stripe_customer_ids=("cus_nobody",)),
        tenant_id=GLOBEX,
        mode="test",
        source="billing",
        effective_at=EPOCH,
    )
    async with gateway.database.tenant(GLOBEX, "test") as tx:
        await on_customer_erased(erased, tx)
    assert (await assign(gateway, event, "operator", "globex")).status_code == 200
    detail = await gateway.get(f"{PATH}/{event}", "globex")
    assert "canary" not in detail.text
    *_, (_, _, sent) = await gateway.published()
    assert "canary" not in sent["data"]["payload"]
