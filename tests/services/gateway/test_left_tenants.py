"""A tenant that was shredded is gone: what Stripe still tells of it is staff's to give away."""

from typing import Any
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.tenants import PLATFORM_TENANT_ID, TenantSecrets
from libs.directory.secrets import apply_secrets
from services.gateway import jobs
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import (
    ACME,
    ACME_CUSTOMER,
    CONNECT,
    Gateway,
    about,
    snapshot_event,
)

PATH = "/api/v1/webhook-events"


async def shred(gateway: Gateway, version: int, *, left: bool = True) -> None:
    """Acme's last word on its secrets."""
    event = wrap(
        TenantSecrets(version=version, left=left),
        tenant_id=ACME,
        mode=None,
        source="tenants",
        effective_at=utc_now(),
    )
    async with gateway.database.tenant(ACME, None) as tx:
        await apply_secrets(event, tx)


async def owner_of(gateway: Gateway, event: Any, **how: Any) -> tuple[UUID, str]:
    """Whose an event becomes, and how that was found."""
    assert (await gateway.send(event, **how)).status_code == 200
    last = (await gateway.archived())[-1]
    return last["tenant_id"], last["assignment"]


async def test_what_names_a_tenant_that_left_is_the_platforms_until_staff_give_it_away(
    gateway: Gateway,
) -> None:
    # Given a customer of the platform's that is a tenant,
    theirs = about(customer=ACME_CUSTOMER)
    named = about(customer="cus_other", metadata={"tenant_id": str(ACME)})
    assert await owner_of(gateway, theirs) == (ACME, "customer")
    assert await owner_of(gateway, named) == (ACME, "metadata")
    # when it has left, for good,
    await shred(gateway, 1)
    # then what names it is kept under the platform, alarmed of, listed,
    later = [
        about(customer=ACME_CUSTOMER),
        about(customer="cus_other", metadata={"tenant_id": str(ACME)}),
    ]
    for event in later:
        assert await owner_of(gateway, event) == (PLATFORM_TENANT_ID, "unassigned")
    alarms = await gateway.told("SecurityEventRaised")
    assert [alarm["data"]["kind"] for _, alarm in alarms] == ["stripe_event_unassigned"] * 2
    # given to it by staff, which is on record, and sent again.
    listed = (await gateway.get(PATH, "operator", assignment="unassigned")).json()["items"]
    assert {item["stripe_event_id"] for item in listed} == {event["id"] for event in later}
    chosen = listed[0]["id"]
    given = await gateway.post(f"{PATH}/{chosen}/assign", "operator", {"tenant_id": "acme"})
    assert (given.status_code, given.json()["tenant_id"]) == (200, str(ACME))
    ((_, change),) = await gateway.told("ConfigurationChanged")
    assert change["data"]["action"] == "webhook_event.assigned"
    answer = await gateway.post(f"{PATH}/replay", "operator", {"ids": [chosen]})
    await jobs.go_on_with_replays(gateway.database)
    replay_id = answer.json()["id"]
    replay = (await gateway.get(f"/api/v1/webhook-replays/{replay_id}", "operator")).json()
    assert (replay["matched"], replay["replayed"]) == (1, 1)
    *_, (tenant_id, _, sent) = await gateway.published()
    assert (tenant_id, sent["data"]["replay_id"]) == (ACME, replay_id)


async def test_a_tenant_that_stays_or_comes_back_is_found(gateway: Gateway) -> None:
    await shred(gateway, 1)
    assert (await owner_of(gateway, about(customer=ACME_CUSTOMER)))[0] == PLATFORM_TENANT_ID
    await shred(gateway, 2, left=False)
    assert await owner_of(gateway, about(customer=ACME_CUSTOMER)) == (ACME, "customer")
    # It left, and has connected an account since.
    await shred(gateway, 3)
    await Own(gateway, ACME, "acme", "acct_acme", kind="CONNECT_STANDARD").tell()
    named = about(customer="cus_other", metadata={"tenant_id": str(ACME)})
    assert await owner_of(gateway, named) == (ACME, "metadata")
    connected = snapshot_event(account="acct_acme")
    assert await owner_of(gateway, connected, secret=CONNECT) == (ACME, "account")
