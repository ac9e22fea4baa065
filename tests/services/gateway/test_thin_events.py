"""Thin events: they name an object and an account, and nothing of either is lost."""

import json
from typing import Any

import pytest

from libs.contracts.tenants import PLATFORM_TENANT_ID
from services.gateway.stripe_event import NotAnEventError, parse
from tests.services.gateway.accounts import Own
from tests.services.gateway.conftest import ACME, ACME_CUSTOMER, CONNECT, GLOBEX, Gateway


def thin(**changes: Any) -> dict[str, Any]:
    """An `invoice.paid` as an event destination of thin events gets it."""
    event = {
        "id": "evt_test_65TQ00000000000000",
        "object": "v2.core.event",
        "type": "v1.invoice.paid",
        "livemode": False,
        "created": "2026-10-30T12:00:00.123Z",
        "related_object": {"id": "in_1", "type": "invoice", "url": "/v1/invoices/in_1"},
        "reason": None,
        "context": None,
    }
    return event | changes


async def only_event(gateway: Gateway) -> tuple[Any, Any]:
    """(archived row, published event) of the one event there is."""
    (row,) = await gateway.archived()
    ((_, _, published),) = await gateway.published()
    return row, published["data"]


@pytest.mark.parametrize(
    ("changes", "kind", "object_id"),
    [
        ({}, "invoice", "in_1"),
        ({"related_object": {"id": "in_1", "type": "v1.invoice"}}, "invoice", "in_1"),
        (
            {"type": "v2.money_management.payout.paid", "related_object": {"type": "x.y"}},
            "x.y",
            None,
        ),
        ({"type": "v9.galaxy.collapsed", "related_object": None}, None, None),
        ({"related_object": "in_1"}, None, None),
    ],
)
async def test_the_related_object_is_what_it_is_about(
    gateway: Gateway, changes: dict[str, Any], kind: str | None, object_id: str | None
) -> None:
    assert (await gateway.send(thin(**changes))).json() == {"status": "stored"}
    row, published = await only_event(gateway)
    assert (row["object_type"], row["object_id"]) == (kind, object_id)
    assert (published["object_type"], published["object_id"]) == (kind, object_id)
    assert row["event_type"] == thin(**changes)["type"]
    assert published["event_type"] == thin(**changes)["type"].removeprefix("v1.")
    assert (row["tenant_id"], row["assignment"]) == (PLATFORM_TENANT_ID, "account")


async def test_an_event_that_stripe_failed_to_make_is_told_like_any(gateway: Gateway) -> None:
    event = thin(
        type="v2.core.health.event_generation_failure.resolved",
        data={"alert_id": "x", "resolved_at": "2026-10-30T12:00:00Z"},
    )
    del event["related_object"]
    assert (await gateway.send(event)).json() == {"status": "stored"}
    _, published = await only_event(gateway)
    assert published["event_type"] == "v2.core.health.event_generation_failure.resolved"
    assert published["object_id"] is None


@pytest.mark.parametrize("kind", ["customer", "v1.customer"])
async def test_a_customer_leads_to_its_tenant(gateway: Gateway, kind: str) -> None:
    await gateway.send(thin(related_object={"id": ACME_CUSTOMER, "type": kind}))
    row, _ = await only_event(gateway)
    assert (row["tenant_id"], row["assignment"]) == (ACME, "customer")


@pytest.mark.parametrize("context", ["acct_globex", "org_1/acct_globex", "org_1/org_2/acct_globex"])
async def test_the_context_names_the_account(gateway: Gateway, context: str) -> None:
    await Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD").tell()
    event = thin(context=context)
    assert (await gateway.send(event)).json() == {"status": "quarantined"}, "the wrong secret"
    event["id"] += "1"
    assert (await gateway.send(event, secret=CONNECT)).json() == {"status": "stored"}
    ((tenant_id, _, published),) = await gateway.published()
    assert (tenant_id, published["data"]["account"]) == (GLOBEX, "acct_globex")


async def test_an_event_of_ours_about_a_connected_account_is_its_tenants(gateway: Gateway) -> None:
    await Own(gateway, GLOBEX, "globex", "acct_globex", kind="CONNECT_STANDARD").tell()
    for number, account in enumerate(("acct_globex", "acct_nobody")):
        about = {"id": account, "type": "v2.core.account", "url": "/v2/core/accounts/x"}
        event = thin(
            id=f"evt_{number}", type="v2.core.account[requirements].updated", related_object=about
        )
        assert (await gateway.send(event)).json() == {"status": "stored"}
    rows = [(row["tenant_id"], row["assignment"]) for row in await gateway.archived()]
    assert rows == [(GLOBEX, "account"), (PLATFORM_TENANT_ID, "unassigned")]


@pytest.mark.parametrize(
    "changes",
    [
        {"context": "me"},
        {"context": 7},
        {"context": "acct_1/acct_2"},
        {"context": "org_1/" * 9 + "acct_1"},
        {"created": 1_790_000_000},
        {"created": "yesterday"},
        {"created": "0001-01-01T00:00:00Z"},
        {"livemode": None},
        {"id": "65TQ"},
        {"type": "with blanks"},
    ],
)
def test_what_is_not_of_stripes_form_is_no_event(changes: dict[str, Any]) -> None:
    with pytest.raises(NotAnEventError):
        parse(json.dumps(thin(**changes)).encode())
