"""Accepting a break: entries of several books, and accounts that do not take a repair."""

from datetime import timedelta
from typing import Any

from ledger.callers import Api, publish_tenant
from ledger.facts import Tenant
from ledger.stripe_side import StripeSide, platforms_account
from ledger.test_statements import connected
from libs.clock import utc_now
from libs.db.pool import Database
from libs.ids import public_id
from libs.testing.memory_log import MemoryLog

UNAPPLIED = "liability:unapplied_payments"


def tenants_account(log: MemoryLog) -> StripeSide:
    owner = Tenant()
    publish_tenant(log, owner.id, "own", ("billing:manage",))
    connected(log, owner.id, "own", "acct_own")
    return StripeSide("acct_own", owner.id, owner, log)


def named(side: StripeSide) -> dict[str, str]:
    return {"X-Tenant-ID": str(side.owner)}


async def bound(api: Api, side: StripeSide, **bounds: Any) -> None:
    """The account of payments that pay nothing yet has these bounds in the tenant's book."""
    answer = await api.client.put(
        f"/api/v1/ledger/accounts/{UNAPPLIED}/bounds",
        json={"book": "tenant", "currency": "EUR", "min_minor": None, "max_minor": None} | bounds,
        headers={"X-API-Key": api.operator} | named(side),
    )
    assert answer.status_code == 200, answer.text


async def test_a_charge_booked_under_two_tenants_is_taken_back_from_both(
    api: Api, ledger: Database, log: MemoryLog
) -> None:
    # Given a charge that two tenants' books have and Stripe does not list
    side = platforms_account(log)
    charge = side.pay(1_000, 30, listed=False)
    log.publish(Tenant().payment(1_000, stripe_charge_id=charge))
    await side.reconcile(ledger)
    all_found = await side.breaks(ledger)
    (found,) = [each for each in all_found if each["reference"] == charge]
    # (and an invoice that nobody calls paid, in two tenants' books too: one break, of both entries),
    (invoice,) = [each for each in all_found if each["reference"].startswith("in_")]
    assert (invoice["kind"], len(invoice["entries"])) == ("amount", 2)
    # When the proposal is accepted
    path = f"breaks/{public_id('break', found['id'])}"
    accepted = await api.post(f"{path}/accept", api.operator, {})
    # Then each entry is reversed in its own book, and the next run finds nothing there
    assert accepted.status_code == 200, accepted.text
    proposal = accepted.json()["proposal"]
    assert (proposal["action"], proposal["tenant_id"]) == ("reverse", None)
    assert len(proposal["entries"]) == 2
    await log.settle()
    await side.reconcile(ledger)
    (after,) = [each for each in await side.breaks(ledger) if each["reference"] == charge]
    assert (after["state"], after["times_found"]) == ("resolved", 1)


async def test_a_reversal_of_what_is_held_is_refused_until_it_is_free(
    api: Api, ledger: Database, log: MemoryLog
) -> None:
    # Given an entry that Stripe does not list, and half of its money held
    side = tenants_account(log)
    side.pay(1_000, listed=False)
    await side.reconcile(ledger)
    (found,) = await side.breaks(ledger)
    await bound(api, side, min_minor=0)
    hold = {
        "book": "tenant",
        "key": "k",
        "account": UNAPPLIED,
        "amount_minor": 500,
        "currency": "EUR",
        "expires_at": (utc_now() + timedelta(hours=5)).isoformat(),
    }
    held = await api.post("holds", api.operator, hold, named(side))
    assert held.status_code == 201, held.text
    # When the reversal is accepted, Then it is refused, and the break stays as it was
    path = f"breaks/{public_id('break', found['id'])}/accept"
    refused = await api.post(path, api.operator, {}, named(side))
    assert (refused.status_code, refused.json()["code"]) == (409, "account_overrun")
    assert (refused.json()["available_minor"], refused.json()["account"]) == (500, UNAPPLIED)
    (same,) = await side.breaks(ledger)
    assert same == found
    # When the hold is released, Then it is carried out
    release = f"holds/{held.json()['id']}/release"
    assert (await api.post(release, api.operator, {}, named(side))).status_code == 200
    assert (await api.post(path, api.operator, {}, named(side))).status_code == 200


async def test_suspense_is_not_cleared_into_an_account_that_is_full(
    api: Api, ledger: Database, log: MemoryLog
) -> None:
    # Given money in suspense, and an account that takes less
    side = tenants_account(log)
    side.move("climate_order_purchase", 700)
    await side.reconcile(ledger)
    (found,) = await side.breaks(ledger)
    await bound(api, side, max_minor=100)
    # When it is cleared there, Then it is refused with what the account would take
    path = f"breaks/{public_id('break', found['id'])}/accept"
    refused = await api.post(path, api.operator, {"account": UNAPPLIED}, named(side))
    assert (refused.status_code, refused.json()["code"]) == (409, "account_overrun")
    assert (refused.json()["bound"], refused.json()["limit_minor"]) == ("maximum", 100)
    (same,) = await side.breaks(ledger)
    assert same == found
